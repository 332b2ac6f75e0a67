"""An environment that breaks its contract is named, counted and made anew, and the window goes on around it."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from copies import copies_of
from policies import make_policy_file

from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.policy import Policy
from edge_actor.rollout import Rollout
from edge_actor.sampling import make_sampler
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.spaces import DiscreteSpec
from fleet_protocol.trajectory import Trajectory

GOOD = np.zeros(2, np.float32)
BAD: dict[str, Any] = {
    "nan": np.array([0, np.nan], np.float32),
    "infinite": np.array([np.inf, -np.inf], np.float32),
    "shape": np.zeros(3, np.float32),
    "dtype": np.array(["a", "b"]),
    "nothing": None,
}


class Breaking(gymnasium.Env[Any, int]):
    """Counts its steps in its observation, and does one bad thing at a given step of its life."""

    observation_space = gymnasium.spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, fault: str, *, at: int, length: int = 1000) -> None:
        self.fault, self.at, self.length = fault, at, length
        self.steps = self.age = self.resets = 0
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.resets, self.age = self.resets + 1, 0
        if self.fault == "reset" and self.resets == self.at:
            raise OSError("the sensor is gone")
        if self.fault == "reset_nan" and self.resets == self.at:
            return BAD["nan"], {}
        return GOOD.copy(), {}

    def step(self, action: int) -> Any:
        self.steps, self.age = self.steps + 1, self.age + 1
        observation, reward = np.array([self.steps, self.age], np.float32), 1.0
        if self.steps == self.at:
            if self.fault == "raises":
                raise OSError("the sensor is gone")
            if self.fault == "short":
                return observation, reward
            if self.fault == "reward":
                reward = float("nan")
            observation = BAD.get(self.fault, observation)
        return observation, reward, False, self.age == self.length, {}

    def close(self) -> None:
        self.closed = True


def rollout_of(copies: list[EnvironmentCopy], unroll_length: int = 8) -> Rollout:
    sampler = make_sampler(
        DiscreteSpec(n=3),
        unroll_length=unroll_length,
        copies=len(copies),
        wire_scale=0.05,
        rng=np.random.default_rng(0),
    )
    return Rollout(copies, unroll_length=unroll_length, frame_stack=1, sampler=sampler, seed=None)


def window_of(rollout: Rollout, copies: int) -> Trajectory:
    policy = Policy(make_policy_file(), copies=copies)
    return rollout.fill_window(lambda: policy)[0]


@pytest.mark.parametrize("fault", [*BAD, "raises", "short", "reward"])
def test_a_bad_step_ends_the_episode_after_the_last_sound_observation(fault: str):
    broken, sound = Breaking(fault, at=4), Breaking("none", at=0)
    rollout = rollout_of(copies_of([broken, sound]))
    window = window_of(rollout, 2)
    assert window.truncated[:, 0].tolist() == [False, False, False, True] + [False] * 4
    assert window.is_first[:, 0].tolist() == [True, False, False, False, True] + [False] * 3
    assert window.rewards[:, 0].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    assert window.final_steps.tolist() == [6]
    assert window.final_observations.tolist() == [[3, 3]]
    assert window.observations[4, 0].tolist() == [0, 0]
    assert window.episode_returns == []  # a return that was cut off says nothing
    assert np.isfinite(window.observations).all()
    # The other copy has not noticed anything.
    assert window.observations[1:, 1, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert not window.truncated[:, 1].any()
    counters, warnings = rollout.take_notes()
    assert counters == {"environment_faults": 1}
    assert "environment copy 0" in warnings[0]
    assert broken.closed
    assert not sound.closed


@pytest.mark.parametrize("fault", ["reset", "reset_nan"])
def test_a_reset_that_fails_is_tried_again_on_a_new_copy(fault: str):
    broken = Breaking(fault, at=2, length=3)
    rollout = rollout_of(copies_of([broken]))
    window = window_of(rollout, 1)
    assert window.truncated[:, 0].tolist() == [False, False, True, False, False, True, False, False]
    assert broken.resets == 4
    assert window.episode_lengths == [3, 3]
    assert rollout.take_notes()[0] == {"environment_faults": 1}


def test_a_fault_in_the_first_step_of_a_window_keeps_the_observation_before_it():
    rollout = rollout_of(copies_of([Breaking("raises", at=9)]))
    window_of(rollout, 1)
    window = window_of(rollout, 1)
    assert window.final_observations.tolist() == [[8, 8]]


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_an_environment_that_never_works_is_given_up_with_its_sentence(fault: str):
    class Hopeless(Breaking):
        def step(self, action: int) -> Any:
            self.steps = self.at - 1
            return super().step(action)

    rollout = rollout_of(copies_of([Hopeless(fault, at=5)]), unroll_length=50)
    with pytest.raises(ProgramError, match="without one sound step") as failed:
        window_of(rollout, 1)
    assert failed.value.exit_code == ExitCode.ENVIRONMENT_FAILED
    assert rollout.take_notes()[0] == {"environment_faults": 9}


def test_one_that_fails_now_and_then_is_kept_for_ever():
    class Shaky(Breaking):
        def step(self, action: int) -> Any:
            if self.age == 2:
                raise OSError("loose contact")
            return super().step(action)

    rollout = rollout_of(copies_of([Shaky("none", at=0)]), unroll_length=90)
    window = window_of(rollout, 1)
    assert rollout.take_notes()[0] == {"environment_faults": 30}
    assert window.truncated.sum() == 30


def test_an_observation_out_of_its_bounds_is_counted_and_no_more():
    class Beyond(Breaking):
        observation_space = gymnasium.spaces.Box(np.float32([-1, -1]), np.float32([3, 100]), (2,), np.float32)

    rollout = rollout_of(copies_of([Beyond("none", at=0)]))
    window = window_of(rollout, 1)
    assert not window.truncated.any()
    counters, warnings = rollout.take_notes()
    assert counters == {"observations_out_of_bounds": 5}  # 4 to 8 are above 3
    assert "entry 0" in warnings[0]
    assert "-1 to 3" in warnings[0]


def test_a_programming_error_of_ours_is_not_taken_for_the_environments(monkeypatch: pytest.MonkeyPatch):
    rollout = rollout_of(copies_of([Breaking("none", at=0)]))
    monkeypatch.setattr(rollout._players, "finish", lambda _copy: 1 / 0)
    monkeypatch.setattr(rollout._players._copies[0]._environment, "length", 2)
    with pytest.raises(ZeroDivisionError):
        window_of(rollout, 1)
