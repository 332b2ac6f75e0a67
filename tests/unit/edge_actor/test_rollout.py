"""Windows are exact: T x N steps really taken, resets that cost none, and the version that acted."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from copies import copies_of
from policies import make_policy_file

from edge_actor.evaluation import play_greedy_episodes
from edge_actor.policy import Policy
from edge_actor.rollout import Rollout
from edge_actor.sampling import make_sampler
from fleet_protocol.spaces import DiscreteSpec
from fleet_protocol.trajectory import pack_trajectory, unpack_trajectory


class Counting(gymnasium.Env[np.ndarray, int]):
    """Observes (episode, step); after `length` steps every 5th episode terminates, and the others are truncated."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, length: int) -> None:
        self.length = length
        self.episode = -1
        self.steps_taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self.episode, self.step_in_episode = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: int):
        assert action in (0, 1, 2)
        self.steps_taken += 1
        self.step_in_episode += 1
        over = self.step_in_episode == self.length
        terminated = over and self.episode % 5 == 4
        return self._observe(), float(self.step_in_episode), terminated, over and not terminated, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.episode, self.step_in_episode], np.float32)


def make_rollout(environments: list[Counting], unroll_length: int) -> Rollout:
    sampler = make_sampler(
        DiscreteSpec(n=3),
        unroll_length=unroll_length,
        copies=len(environments),
        wire_scale=0.05,
        rng=np.random.default_rng(0),
    )
    return Rollout(
        copies_of(environments),
        unroll_length=unroll_length,
        frame_stack=1,
        sampler=sampler,
        seed=None,
    )


def windows_of(environments: list[Counting], unroll_length: int, count: int):
    rollout = make_rollout(environments, unroll_length)
    policy = Policy(make_policy_file(), copies=len(environments))
    return [unpack_trajectory(pack_trajectory(rollout.fill_window(lambda: policy)[0])) for _ in range(count)]


def test_every_step_is_a_real_step_and_none_is_missing():
    environments = [Counting(3), Counting(4)]
    windows = windows_of(environments, unroll_length=7, count=6)
    assert [environment.steps_taken for environment in environments] == [42, 42]
    for copy, environment in enumerate(environments):
        # Play the same episodes slowly, and compare all columns.
        twin = Counting(environment.length)
        observation, _ = twin.reset()
        first = True
        for window in windows:
            for step in range(7):
                assert window.observations[step, copy].tolist() == observation.tolist()
                assert window.is_first[step, copy] == first
                observation, reward, terminated, truncated, _ = twin.step(0)
                assert window.rewards[step, copy] == reward
                assert window.terminated[step, copy] == terminated
                assert window.truncated[step, copy] == truncated
                first = terminated or truncated
                if truncated:
                    at = window.final_steps.tolist().index(step * 2 + copy)
                    assert window.final_observations[at].tolist() == observation.tolist()
                if first:
                    observation, _ = twin.reset()
            assert window.observations[7, copy].tolist() == observation.tolist()


def test_returns_and_lengths_of_ended_episodes_are_recorded_once():
    windows = windows_of([Counting(3)], unroll_length=7, count=3)
    assert [length for window in windows for length in window.episode_lengths] == [3] * 7
    assert [value for window in windows for value in window.episode_returns] == [6.0] * 7


def test_a_policy_swapped_in_the_middle_of_a_window_is_named_from_its_first_step_on():
    rollout = make_rollout([Counting(3)], unroll_length=6)
    policies = [Policy(make_policy_file(policy_version=version), copies=1) for version in (4, 9)]
    asked = iter([0, 0, 1, 1, 1, 1, 1])  # once more at the end
    window, _ = rollout.fill_window(lambda: policies[next(asked)])
    assert window.policy_versions.tolist() == [4, 4, 9, 9, 9, 9]
    assert unpack_trajectory(pack_trajectory(window)).policy_versions.tolist() == [4, 4, 9, 9, 9, 9]


@pytest.mark.parametrize("copies", [1, 3, 8])
def test_a_greedy_evaluation_does_not_depend_on_how_many_play_at_a_time(copies: int):
    def play(count: int) -> tuple[list[float], list[int]]:
        environments = [gymnasium.make("CartPole-v1", disable_env_checker=True) for _ in range(count)]
        action = DiscreteSpec(n=2)
        policy = Policy(make_policy_file(observation_size=4, action=action, seed=3), copies=count)
        sampler = make_sampler(action, unroll_length=1, copies=count, wire_scale=0.05, rng=np.random.default_rng(0))
        return play_greedy_episodes(copies_of(environments), policy, sampler, episodes=7, seed=100)

    returns, lengths = play(copies)
    assert (returns, lengths) == play(2)
    assert returns == [float(length) for length in lengths]
    assert len(set(lengths)) > 1
