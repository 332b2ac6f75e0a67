"""Runs with a clock (ADR 7): ticks at their time, missed ones skipped and bridged, and never taken for the policy's."""

import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from copies import copies_of
from policies import make_policy_file

from edge_actor.pacer import Pacer
from edge_actor.policy import Policy
from edge_actor.rollout import Rollout
from edge_actor.sampling import as_action, make_sampler
from fleet_protocol.exit_codes import ProgramError
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, MultiDiscreteSpec, SpaceSpec

SAFE = 2


class Late(Pacer):
    """A clock that says when ticks were missed, instead of missing them."""

    def __init__(self, missed: list[int]) -> None:
        super().__init__(hz=1e6)
        self._missed = iter(missed)

    def wait(self) -> int:
        return next(self._missed, 0)


class Diary(gymnasium.Env[np.ndarray, int]):
    """Notes its actions; shows how many it got; pays 1, 10, 100, ... for them; an episode lasts `length` of them."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, length: int = 1000) -> None:
        self.actions: list[int] = []
        self.length, self.age = length, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.age = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int):
        self.actions.append(action)
        self.age += 1
        return np.full(2, len(self.actions), np.float32), 10.0 ** (self.age - 1), False, self.age == self.length, {}


def clocked(environment: Diary, missed: list[int], *, safe_action: int | None, unroll_length: int = 4) -> Rollout:
    sampler = make_sampler(
        DiscreteSpec(n=3), unroll_length=unroll_length, copies=1, wire_scale=0.05, rng=np.random.default_rng(0)
    )
    return Rollout(
        copies_of([environment]),
        unroll_length=unroll_length,
        frame_stack=1,
        sampler=sampler,
        seed=None,
        pacer=Late(missed),
        safe_action=safe_action,
    )


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(make_policy_file(), copies=1)


@pytest.mark.parametrize("safe_action", [SAFE, None])
def test_a_missed_deadline_is_bridged_by_one_tick_that_is_no_step_of_the_policy(
    policy: Policy, safe_action: int | None
):
    environment = Diary()
    rollout = clocked(environment, [0, 0, 3, 0, 0], safe_action=safe_action)
    window, _ = rollout.fill_window(lambda: policy)
    drawn = window.actions[:, 0].tolist()
    held = drawn[1] if safe_action is None else SAFE
    assert environment.actions == [*drawn[:2], held, *drawn[2:]]
    assert window.held_steps.tolist() == [1]
    assert window.rewards[:, 0].tolist() == [1, 10 + 100, 1000, 10000]
    # The policy saw what came of the bridged tick.
    assert window.observations[:, 0, 0].tolist() == [0, 1, 3, 4, 5]
    assert rollout.take_notes()[0] == {"deadline_misses": 3, "ticks_held": 1, "ticks": 4}


def test_an_episode_that_ends_in_a_bridged_tick_ends_with_the_step_before_it(policy: Policy):
    rollout = clocked(Diary(length=3), [0, 0, 1, 0, 0], safe_action=SAFE)
    window, _ = rollout.fill_window(lambda: policy)
    assert window.truncated[:, 0].tolist() == [False, True, False, False]
    assert window.is_first[:, 0].tolist() == [True, False, True, False]
    assert window.final_observations.tolist() == [[3, 3]]
    assert window.episode_returns == [111]
    assert window.observations[2, 0].tolist() == [0, 0]


def test_between_two_windows_a_bridged_tick_belongs_to_neither(policy: Policy):
    environment = Diary(length=5)
    rollout = clocked(environment, [0] * 4 + [2, 0, 0], safe_action=SAFE)
    rollout.fill_window(lambda: policy)
    window, _ = rollout.fill_window(lambda: policy)
    assert environment.actions[4] == SAFE
    assert window.held_steps.tolist() == []
    assert window.is_first[:, 0].tolist() == [True, False, False, False]
    assert window.rewards[:, 0].tolist() == [1, 10, 100, 1000]
    assert window.episode_returns == [11111]


def test_at_rest_the_environment_is_left_with_the_safe_action(policy: Policy):
    environment = Diary()
    rollout = clocked(environment, [], safe_action=SAFE)
    rollout.fill_window(lambda: policy)
    rollout.come_to_rest()
    assert environment.actions[-1] == SAFE
    without, environment = clocked(Diary(), [], safe_action=None), Diary()
    without.come_to_rest()
    assert environment.actions == []


def test_ticks_come_at_their_time_whatever_the_work_takes():
    pacer = Pacer(200)
    begun = time.monotonic()
    assert pacer.wait() == 0
    ticks: list[float] = []
    for number in range(20):
        time.sleep(0.001 * (number % 4))
        assert pacer.wait() == 0 or time.monotonic() - begun > 0.005 * (number + 1)
        ticks.append(time.monotonic() - begun)
    assert all(tick >= 0.005 * (number + 1) - 1e-3 for number, tick in enumerate(ticks))


def test_what_passed_is_skipped_and_counted():
    pacer = Pacer(100)
    begun = time.monotonic_ns()
    pacer.wait()
    time.sleep(0.035)
    missed = pacer.wait()
    assert missed >= 3
    # It woke at the first tick that had not passed.
    assert time.monotonic_ns() - begun >= (missed + 1) * 10_000_000
    pacer.restart()
    time.sleep(0.03)
    assert pacer.wait() == 0


@pytest.mark.parametrize(
    ("flat", "space", "action"),
    [
        ([1.0], DiscreteSpec(n=3), 1),
        ([1.0, 0.0], MultiDiscreteSpec(nvec=[2, 3]), [1, 0]),
        ([0.5, -0.5], BoxSpec(shape=(2,), dtype="float32"), [0.5, -0.5]),
    ],
    ids=str,
)
def test_a_safe_action_becomes_one_of_the_runs_space(flat: list[float], space: SpaceSpec, action: Any):
    assert np.asarray(as_action(flat, space)).tolist() == action


def test_a_safe_action_of_another_size_is_refused():
    with pytest.raises(ProgramError, match="safe_action has 2 numbers"):
        as_action([1.0, 2.0], DiscreteSpec(n=3))
