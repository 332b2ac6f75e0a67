"""What acts is what travels: actions are drawn from the rounded parameters that the window carries."""

import math

import numpy as np
import pytest

from edge_actor.sampling import CategoricalSampler, GaussianSampler
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

SCALE = 0.05


def make_categorical(
    copies: int, actions: int = 3, steps: int = 1, start: int = 0, seed: int = 0
) -> CategoricalSampler:
    sampler = CategoricalSampler(
        DiscreteSpec(n=3, start=start),
        unroll_length=steps,
        copies=copies,
        wire_scale=SCALE,
        rng=np.random.default_rng(seed),
    )
    sampler.begin_window()
    return sampler


def slow_grid(logits: np.ndarray, scale: float) -> list[int]:
    return [max(-127, min(127, round((float(logit) - float(logits[0])) / scale))) for logit in logits[1:]]


def slow_probabilities(grid: list[int], scale: float) -> np.ndarray:
    weights = [1.0, *(math.exp(level * scale) for level in grid)]
    return np.array(weights) / sum(weights)


@pytest.mark.parametrize("copies", [1, 2, 50])
def test_the_grid_is_the_rounded_and_clipped_difference_to_the_first_logit(copies: int):
    sampler = make_categorical(copies)
    logits = np.random.default_rng(1).normal(0, 4, (copies, 3)).astype(np.float32)
    sampler.sample((logits,), 0)
    assert sampler.behavior_params[0].tolist() == [slow_grid(row, SCALE) for row in logits]
    assert sampler.behavior_params.min() == -127 or copies < 50  # the case holds clipped ones


def test_one_by_one_and_all_at_once_draw_the_same_actions_from_the_same_numbers():
    at_once = make_categorical(200, seed=5)
    logits = np.random.default_rng(2).normal(0, 1, (200, 3)).astype(np.float32)
    together = at_once.sample((logits,), 0)
    uniforms = np.random.default_rng(5).random((1, 200))[0]
    apart = [at_once.draw_one(row, uniform)[0] for row, uniform in zip(logits.tolist(), uniforms, strict=True)]
    assert together == apart
    assert at_once.actions[0].tolist() == apart


@pytest.mark.parametrize("copies", [1, 4000])
def test_actions_come_as_often_as_the_rounded_logits_say(copies: int):
    steps = 20_000 // copies if copies == 1 else 5
    sampler = make_categorical(copies, steps=steps)
    row = np.array([[0.3, -0.4, 1.22]], np.float32)
    for step in range(steps):
        sampler.sample((np.repeat(row, copies, axis=0),), step)
    frequencies = np.bincount(sampler.actions.ravel(), minlength=3) / sampler.actions.size
    expected = slow_probabilities(slow_grid(row[0], SCALE), SCALE)
    five_sigma = 5 * np.sqrt(expected * (1 - expected) / sampler.actions.size)
    assert (np.abs(frequencies - expected) < five_sigma).all()


def test_the_grid_is_fixed_within_a_window_and_fits_the_last_windows_logits_after_it():
    sampler = make_categorical(2, steps=2)
    sampler.sample((np.array([[0, 12.7, 0], [0, 0, 0]], np.float32),), 0)
    sampler.sample((np.array([[0, 1, 0], [0, 0, 0]], np.float32),), 1)
    assert sampler.wire_scale == SCALE
    sampler.begin_window()
    assert sampler.wire_scale == pytest.approx(1.5 * 12.7 / 127)


def test_actions_count_from_the_start_of_the_space_but_travel_from_zero():
    sampler = make_categorical(50, start=5)
    given = sampler.sample((np.zeros((50, 3), np.float32),), 0)
    assert set(given) == {5, 6, 7}
    assert (sampler.actions[0] + 5).tolist() == given


def test_greedy_uses_the_unrounded_outputs():
    sampler = make_categorical(1)
    nearly_equal = np.array([[0.0, 0.001, -1.0]], np.float32)
    assert slow_grid(nearly_equal[0], SCALE)[0] == 0
    assert sampler.greedy((nearly_equal,)) == [1]


def make_gaussian(copies: int) -> GaussianSampler:
    space = BoxSpec(shape=(2,), dtype="float32", low=[-1.0, -1.0], high=[1.0, 1.0])
    sampler = GaussianSampler(space, unroll_length=1, copies=copies, rng=np.random.default_rng(0))
    sampler.begin_window()
    return sampler


def test_a_gaussian_log_probability_is_of_the_recorded_action_under_the_recorded_parameters():
    sampler = make_gaussian(20)
    rng = np.random.default_rng(3)
    mean, log_std = rng.normal(0, 2, (20, 2)).astype(np.float32), rng.normal(-1, 0.5, (20, 2)).astype(np.float32)
    sampler.sample((mean, log_std), 0)
    for copy in range(20):
        expected = 0.0
        for i in range(2):
            mu, sigma = (
                float(sampler.behavior_params[0, copy, i]),
                math.exp(float(sampler.behavior_params[0, copy, 2 + i])),
            )
            distance = (float(sampler.actions[0, copy, i]) - mu) / sigma
            expected += -0.5 * distance**2 - math.log(sigma) - 0.5 * math.log(2 * math.pi)
        assert sampler.behavior_log_prob is not None
        assert sampler.behavior_log_prob[0, copy] == pytest.approx(expected, abs=2e-5)
    assert sampler.behavior_params.dtype == np.float16
    assert (sampler.behavior_params[0, :, :2] == mean.astype(np.float16)).all()


def test_only_what_the_environment_gets_is_clipped():
    sampler = make_gaussian(50)
    given = sampler.sample((np.full((50, 2), 3.0, np.float32), np.zeros((50, 2), np.float32)), 0)
    assert all((action <= 1).all() and action.dtype == np.float32 for action in given)
    assert sampler.actions.max() > 1
