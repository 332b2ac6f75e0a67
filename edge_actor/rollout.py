"""Fill exact windows: T steps of N copies, stepped by hand so that a reset never costs or fakes a step."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_actor.environments import Environment, environment_code
from edge_actor.policy import Policy
from edge_actor.sampling import Sampler
from fleet_protocol.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations of one window's steps in ns, int64 `[T]` each.

    Attributes:
        inference: The interpreter alone.
        environment: One environment's step, the mean over the copies.
        step: The whole step of all copies.
    """

    inference: NDArray[np.int64]
    environment: NDArray[np.int64]
    step: NDArray[np.int64]


class Rollout:
    """N copies of an environment, played on without end and cut into windows.

    Args:
        environments: The copies.
        unroll_length: T.
        observation_size: D.
        sampler: Draws and records the actions.
        seed: Seeds the first reset of the copies: copy n gets `seed + n`.
    """

    def __init__(
        self,
        environments: list[Environment],
        *,
        unroll_length: int,
        observation_size: int,
        sampler: Sampler,
        seed: int | None,
    ) -> None:
        shape = (unroll_length, len(environments))
        self._environments = environments
        self._sampler = sampler
        self._observations = np.zeros((unroll_length + 1, len(environments), observation_size), np.float32)
        self._rewards = np.zeros(shape, np.float32)
        self._terminated = np.zeros(shape, np.bool_)
        self._truncated = np.zeros(shape, np.bool_)
        self._is_first = np.zeros(shape, np.bool_)
        self._versions = np.zeros(unroll_length, np.int64)
        self._timings = np.zeros((3, unroll_length), np.int64)
        self._returns = [0.0] * len(environments)
        self._lengths = [0] * len(environments)
        self._finals: list[tuple[int, NDArray[Any]]] = []
        self._finished: list[tuple[float, int]] = []
        with environment_code():
            for copy, environment in enumerate(environments):
                self._observations[-1, copy], _ = environment.reset(seed=None if seed is None else seed + copy)
        self._now_first = np.ones(len(environments), np.bool_)

    def fill_window(self, newest_policy: Callable[[], Policy]) -> tuple[Trajectory, Timings]:
        """Play T steps and return what happened.

        The arrays are reused by the next window: pack the trajectory first.

        Args:
            newest_policy: Asked between any two steps; what it returns acts, and its version is recorded (D6).
        """
        self._begin_window()
        for step in range(self._rewards.shape[0]):
            policy = newest_policy()
            self._versions[step] = policy.metadata.policy_version
            self._play_step(step, policy)
        return self._trajectory(), Timings(*self._timings)

    def _begin_window(self) -> None:
        self._sampler.begin_window()
        self._observations[0] = self._observations[-1]
        self._terminated[...] = False
        self._truncated[...] = False
        self._finals.clear()
        self._finished.clear()

    def _play_step(self, step: int, policy: Policy) -> None:
        started = perf_counter_ns()
        policy.observation[...] = self._observations[step]
        policy.infer()
        inferred = perf_counter_ns()
        actions = self._sampler.sample(policy.outputs, step)
        self._is_first[step] = self._now_first
        self._now_first[...] = False
        sampled = perf_counter_ns()
        with environment_code():
            self._step_environments(step, actions)
        ended = perf_counter_ns()
        self._timings[:, step] = (inferred - started, (ended - sampled) // len(actions), ended - started)

    def _step_environments(self, step: int, actions: list[Any]) -> None:
        observations, rewards = self._observations[step + 1], self._rewards[step]
        returns, lengths = self._returns, self._lengths
        for copy, environment in enumerate(self._environments):
            observation, reward, terminated, truncated, _ = environment.step(actions[copy])
            observations[copy] = observation
            rewards[copy] = reward
            returns[copy] += float(reward)
            lengths[copy] += 1
            if terminated or truncated:
                self._end_episode(step, copy, terminated=bool(terminated), truncated=bool(truncated))

    def _end_episode(self, step: int, copy: int, *, terminated: bool, truncated: bool) -> None:
        row = self._observations[step + 1]
        self._terminated[step, copy] = terminated
        self._truncated[step, copy] = truncated
        if truncated and not terminated:
            self._finals.append((step * len(self._environments) + copy, row[copy].copy()))
        self._finished.append((self._returns[copy], self._lengths[copy]))
        self._returns[copy], self._lengths[copy] = 0.0, 0
        row[copy], _ = self._environments[copy].reset()
        self._now_first[copy] = True

    def _trajectory(self) -> Trajectory:
        sampler = self._sampler
        finals = self._finals
        return Trajectory(
            head=sampler.head,
            observations=self._observations,
            actions=sampler.actions,
            rewards=self._rewards,
            terminated=self._terminated,
            truncated=self._truncated,
            is_first=self._is_first,
            behavior_params=sampler.behavior_params,
            behavior_log_prob=sampler.behavior_log_prob,
            wire_scale=sampler.wire_scale,
            policy_versions=self._versions,
            final_steps=np.array([index for index, _ in finals], np.int32),
            final_observations=np.array([o for _, o in finals], np.float32).reshape(-1, self._observations.shape[-1]),
            episode_returns=[episode_return for episode_return, _ in self._finished],
            episode_lengths=[length for _, length in self._finished],
        )


def play_greedy_episodes(
    environments: list[Environment], policy: Policy, sampler: Sampler, *, episodes: int, seed: int
) -> tuple[list[float], list[int]]:
    """Play whole episodes with the most probable actions, several at a time; episode i is seeded `seed + i`.

    Which copy plays an episode changes nothing about it, so the result does not depend on their number.

    Returns:
        Undiscounted returns and lengths, in the order of the episodes.

    Raises:
        ProgramError: The environment raised.
    """
    with environment_code():
        return _play_greedy_episodes(environments, policy, sampler, episodes=episodes, seed=seed)


def _play_greedy_episodes(
    environments: list[Environment], policy: Policy, sampler: Sampler, *, episodes: int, seed: int
) -> tuple[list[float], list[int]]:
    returns, lengths = [0.0] * episodes, [0] * episodes
    playing = list(range(min(len(environments), episodes)))  # copy -> episode, -1 when there is none left
    following = len(playing)
    for copy, episode in enumerate(playing):
        policy.observation[copy], _ = environments[copy].reset(seed=seed + episode)
    while any(episode >= 0 for episode in playing):
        policy.infer()
        actions = sampler.greedy(policy.outputs)
        for copy, episode in enumerate(playing):
            if episode < 0:
                continue
            observation, reward, terminated, truncated, _ = environments[copy].step(actions[copy])
            returns[episode] += float(reward)
            lengths[episode] += 1
            if terminated or truncated:
                playing[copy] = following if following < episodes else -1
                if following < episodes:
                    observation, _ = environments[copy].reset(seed=seed + following)
                following += 1
            policy.observation[copy] = observation
    return returns, lengths
