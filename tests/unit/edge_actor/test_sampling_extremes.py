"""Both ways to draw are one, window after window, and no logit is too large for the grid."""

from typing import Any

import numpy as np
import pytest

from edge_actor.sampling import CategoricalSampler, GaussianSampler
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

COARSEST = 40 / 127


def make_sampler(
    *, actions: int = 4, copies: int = 7, steps: int = 6, seed: int = 0, wire_scale: float = 0.05
) -> CategoricalSampler:
    return CategoricalSampler(
        DiscreteSpec(n=actions),
        unroll_length=steps,
        copies=copies,
        wire_scale=wire_scale,
        rng=np.random.default_rng(seed),
    )


@pytest.mark.parametrize("actions", [2, 4, 300])
def test_plain_python_and_numpy_fill_the_same_windows(actions: int):
    plain, vectorised = make_sampler(actions=actions), make_sampler(actions=actions)
    plain._draw, vectorised._draw = plain._draw_plainly, vectorised._draw_vectorised
    rng = np.random.default_rng(1)
    for spread in (0.0, 0.01, 1.0, 5.0, 1000.0, 0.1):
        for sampler in (plain, vectorised):
            sampler.begin_window()
        for step in range(6):
            logits = (rng.standard_normal((7, actions)) * spread).astype(np.float32)
            assert plain.sample((logits,), step) == vectorised.sample((logits,), step)
        np.testing.assert_array_equal(plain.behavior_params, vectorised.behavior_params)
        np.testing.assert_array_equal(plain.actions, vectorised.actions)
        assert plain.wire_scale == vectorised.wire_scale


@pytest.mark.parametrize("copies", [1, 50])
def test_huge_logits_are_clipped_to_the_ends_of_the_grid(copies: int):
    sampler = make_sampler(actions=3, copies=copies, steps=2)
    for first, second in ((-1e30, 1e30), (3e38, -3e38)):
        sampler.begin_window()
        row = np.array([first, second, first], np.float32)
        for step in range(2):
            sampler.sample((np.tile(row, (copies, 1)),), step)
        assert set(sampler.behavior_params[..., 0].ravel().tolist()) == {127 if second > first else -127}
        assert set(sampler.behavior_params[..., 1].ravel().tolist()) == {0}
        assert sampler.wire_scale <= COARSEST
    assert set(sampler.actions.ravel().tolist()) <= {0, 2}  # the second is e^-40 as likely


@pytest.mark.parametrize("wire_scale", [1e-9, 0.0, 100.0, 1e6])
def test_a_grid_that_no_window_could_use_is_brought_into_range(wire_scale: float):
    sampler = make_sampler(wire_scale=wire_scale)
    sampler.begin_window()
    sampler.sample((np.eye(7, 4, dtype=np.float32),), 0)
    assert 0.5 / 127 <= sampler.wire_scale <= COARSEST


def test_equal_logits_keep_the_grid():
    sampler = make_sampler()
    for _ in range(3):
        sampler.begin_window()
        sampler.sample((np.ones((7, 4), np.float32),), 0)
    assert sampler.wire_scale == 0.05


def test_more_actions_than_a_byte_tells_apart_travel_whole():
    sampler = make_sampler(actions=300, copies=2, steps=1)
    sampler.begin_window()
    logits = np.zeros((2, 300), np.float32)
    logits[:, 299] = 1e9
    assert sampler.sample((logits,), 0) == sampler.actions[0].tolist()
    assert sampler.greedy((logits,)) == [299, 299]


def make_gaussian(dtype: str = "float32", **bounds: Any) -> GaussianSampler:
    space = BoxSpec(shape=(2,), dtype=dtype, **bounds)
    sampler = GaussianSampler(space, unroll_length=1, copies=30, rng=np.random.default_rng(0))
    sampler.begin_window()
    return sampler


def test_each_action_has_bounds_of_its_own_and_the_environments_dtype():
    sampler = make_gaussian("float64", low=[-0.1, -9.0], high=[0.2, 0.5])
    given = np.array(sampler.sample((np.zeros((30, 2), np.float32), np.zeros((30, 2), np.float32)), 0))
    np.testing.assert_array_equal(given, np.clip(sampler.actions[0].astype(np.float64), [-0.1, -9.0], [0.2, 0.5]))
    assert given.dtype == np.float64
    assert sampler.actions.dtype == np.float32
    assert sampler.actions.min() < -0.1


def test_an_unbounded_space_gets_what_was_drawn():
    sampler = make_gaussian()
    given = sampler.sample((np.full((30, 2), 1000.0, np.float32), np.zeros((30, 2), np.float32)), 0)
    np.testing.assert_array_equal(np.array(given), sampler.actions[0])


def test_the_greedy_mean_is_clipped_but_not_rounded():
    mean = np.full((30, 2), 0.12345678, np.float32)
    bounded = make_gaussian(low=[-1.0, -1.0], high=[1.0, 0.1])
    assert bounded.greedy((mean, mean))[0].tolist() == [mean[0, 0], np.float32(0.1)]


def test_gaussian_samples_have_the_rounded_mean_and_deviation():
    sampler = GaussianSampler(
        BoxSpec(shape=(1,), dtype="float32"), unroll_length=1, copies=40_000, rng=np.random.default_rng(3)
    )
    sampler.begin_window()
    mean, log_std = np.full((40_000, 1), 2.0004, np.float32), np.full((40_000, 1), -1.0003, np.float32)
    sampler.sample((mean, log_std), 0)
    deviation = np.exp(float(np.float16(-1.0003)))
    five_sigma = 5 * deviation / 200
    assert abs(sampler.actions.mean() - float(np.float16(2.0004))) < five_sigma
    assert abs(sampler.actions.std() - deviation) < five_sigma
