"""Fill exact windows: T steps of N copies, stepped by hand so that a reset never costs or fakes a step."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_actor.beholder import Beholder
from edge_actor.environment_copy import EnvironmentCopy
from edge_actor.pacer import Pacer
from edge_actor.players import Ended, Players
from edge_actor.policy import Policy
from edge_actor.sampling import Sampler
from edge_actor.step_clock import UNWATCHED
from fleet_protocol.trajectory import Trajectory

_WARNINGS_A_WINDOW: Final = 5


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations of one window's steps in ns, int64 `[T]` each.

    Attributes:
        inference: The interpreter alone.
        environment: One environment's step, the mean over the copies.
        step: The whole step of all copies.
        lateness: How late the step's tick began; None without a clock.
    """

    inference: NDArray[np.int64]
    environment: NDArray[np.int64]
    step: NDArray[np.int64]
    lateness: NDArray[np.int64] | None

    def by_name(self) -> dict[str, NDArray[np.int64]]:
        """The durations by the names that telemetry gives them (there in us)."""
        named = {"inference_us": self.inference, "env_step_us": self.environment, "step_us": self.step}
        return named if self.lateness is None else {**named, "tick_late_us": self.lateness}


class Rollout:
    """N copies of an environment, played on without end and cut into windows.

    Args:
        copies: The environments.
        unroll_length: T.
        frame_stack: Observations that make what a policy sees.
        sampler: Draws and records the actions.
        seed: Seeds the first reset of the copies: copy n gets `seed + n`.
        clock: Entered while the environments' code runs.
        pacer: Keeps the run's clock, for one copy; None to go as fast as it goes.
        safe_action: Flat, applied at a missed deadline and at rest; None for the last action again.

    Attributes:
        counters: What happened since they were last taken away, by name.
        warnings: Sentences for people, few in a window.
    """

    def __init__(
        self,
        copies: list[EnvironmentCopy],
        *,
        unroll_length: int,
        frame_stack: int,
        sampler: Sampler,
        seed: int | None,
        clock: AbstractContextManager[object] = UNWATCHED,
        pacer: Pacer | None = None,
        safe_action: Any = None,  # noqa: ANN401 - an action of any space
    ) -> None:
        observation = copies[0].observation_space
        shape = (unroll_length, len(copies))
        self._sampler = sampler
        self._pacer = pacer
        self._held_action = safe_action
        self._keeps_last_action = safe_action is None
        self._frame_stack = frame_stack
        rows = np.zeros((unroll_length + frame_stack, len(copies), *observation.shape), observation.dtype)
        self._frames = rows
        self._observations = rows[frame_stack - 1 :]  # row t is the newest frame of step t
        self._rewards = np.zeros(shape, np.float32)
        self._terminated = np.zeros(shape, np.bool_)
        self._truncated = np.zeros(shape, np.bool_)
        self._is_first = np.zeros(shape, np.bool_)
        self._versions = np.zeros(unroll_length, np.int64)
        self._timings = np.zeros((4, unroll_length), np.int64)
        self._finals: list[tuple[int, NDArray[Any]]] = []
        self._finished: list[tuple[float, int]] = []
        self._held: list[int] = []
        self._step = 0
        self._beholder = Beholder(observation, copies=len(copies), frame_stack=frame_stack)
        self.counters: Counter[str] = Counter()
        self.warnings: list[str] = []
        self._players = Players(copies, self._beholder, clock=clock, count=self._count)
        self._now_first = np.ones(len(copies), np.bool_)
        self._players.reset_all(self._observations[-1], seed=seed)

    def fill_window(self, newest_policy: Callable[[], Policy]) -> tuple[Trajectory, Timings]:
        """Play T steps and return what happened.

        The arrays are reused by the next window: pack the trajectory first.

        Args:
            newest_policy: Asked between any two steps; what it returns acts, and its version is recorded (D6). One with
                another state size has to wait for the next window.

        Raises:
            ProgramError: A copy fails again and again, and cannot be made anew.
            UnusableOutputs: No action can be drawn: call `abandon_window`, and go on with another policy.
        """
        self._step = 0
        policy = newest_policy()
        initial_state = self._begin_window(policy)
        for step in range(self._rewards.shape[0]):
            self._step = step
            self._keep_pace()
            newest = newest_policy() if step else policy
            if newest.state_size == policy.state_size:
                policy = newest
            self._versions[step] = policy.metadata.policy_version
            self._play_step(step, policy)
        self._step = self._rewards.shape[0]
        if newest_policy().state_size != policy.state_size:
            self._cut_all_episodes()
        self._note_bounds()
        inference, environment, step_times, lateness = self._timings
        timings = Timings(inference, environment, step_times, lateness if self._pacer is not None else None)
        return self._trajectory(initial_state), timings

    def abandon_window(self) -> int:
        """Leave a window at the step whose action could not be drawn; episodes go on, and memories begin anew.

        Returns:
            The version of the policy that failed.
        """
        self.counters["steps_abandoned"] += self._step * len(self._now_first)
        self.counters["episodes_abandoned"] += len(self._finished)
        self._beholder.state[...] = 0
        return int(self._versions[self._step])

    def take_notes(self) -> tuple[dict[str, int], list[str]]:
        """What was counted, and sentences for people, since the last call."""
        counters, warnings = dict(self.counters), list(self.warnings)
        self.counters.clear()
        self.warnings.clear()
        return counters, warnings

    def come_to_rest(self) -> None:
        """Before a halt of any length: a run with a clock leaves its environment with the safe action."""
        if self._pacer is not None:
            self._pacer.restart()
            if not self._keeps_last_action:
                self._hold()

    def _begin_window(self, policy: Policy) -> NDArray[np.float32] | None:
        self._sampler.begin_window()
        self._frames[: self._frame_stack] = self._beholder.frames()
        self._terminated[...] = False
        self._truncated[...] = False
        self._finals.clear()
        self._finished.clear()
        self._held.clear()
        self._beholder.fit(policy)
        return self._beholder.state.copy() if policy.state_size else None

    def _play_step(self, step: int, policy: Policy) -> None:
        started = perf_counter_ns()
        self._beholder.infer(policy)
        inferred = perf_counter_ns()
        actions = self._sampler.sample(policy.outputs, step)
        self._is_first[step] = self._now_first
        self._now_first[...] = False
        sampled = perf_counter_ns()
        observations = self._observations[step + 1]
        ended = self._players.step_all(actions, observations, self._rewards[step])
        self._beholder.see(observations)
        for end in ended:
            self._end_episode(step, end)
        if self._keeps_last_action:
            self._held_action = actions[0]
        done = perf_counter_ns()
        lateness = self._pacer.lateness_ns if self._pacer is not None else 0
        self._timings[:, step] = (inferred - started, (done - sampled) // len(actions), done - started, lateness)

    def _end_episode(self, step: int, end: Ended) -> None:
        copy, row = end.copy, self._observations[step + 1]
        if step >= 0:
            self._terminated[step, copy] = end.terminated
            self._truncated[step, copy] = end.truncated
            if end.truncated and not end.terminated:
                self._finals.append((step * len(row) + copy, row[copy].copy()))
        finished = self._players.finish(copy)
        if not end.failed:
            self._finished.append(finished)
        self._players.reset(copy, row)
        self._now_first[copy] = True

    def _cut_all_episodes(self) -> None:
        last = self._rewards.shape[0] - 1
        for copy in np.flatnonzero(~self._now_first).tolist():
            self._end_episode(last, Ended(copy, terminated=False, truncated=True, failed=True))

    # --- runs with a clock (ADR 7) ----------------------------------------------------------------------------------

    def _keep_pace(self) -> None:
        if self._pacer is None:
            return
        while missed := self._pacer.wait():
            self.counters["deadline_misses"] += missed
            self._hold()
        self.counters["ticks"] += 1

    def _hold(self) -> None:
        """One tick that the policy has no part in: its reward and its end go to the step before it in this window."""
        if self._held_action is None:
            return  # nothing was ever applied
        before = self._step - 1
        row, reward = self._observations[self._step], np.zeros(1, np.float32)
        ended = self._players.step_all([self._held_action], row, reward)
        self._beholder.see_instead(row)
        self.counters["ticks_held"] += 1
        if before >= 0:
            self._rewards[before] += reward
            self._held.append(before)
        for end in ended:
            self._end_episode(before, end)

    # --- what goes out ----------------------------------------------------------------------------------------------

    def _note_bounds(self) -> None:
        outside = self._players.out_of_bounds(self._observations[1:])
        if outside is not None:
            count, sentence = outside
            self._count("observations_out_of_bounds", sentence, by=count)

    def _count(self, name: str, sentence: str, by: int = 1) -> None:
        self.counters[name] += by
        if len(self.warnings) < _WARNINGS_A_WINDOW:
            self.warnings.append(sentence)

    def _trajectory(self, initial_state: NDArray[np.float32] | None) -> Trajectory:
        sampler = self._sampler
        finals = sorted(self._finals, key=lambda final: final[0])
        frames = self._frames
        return Trajectory(
            head=sampler.head,
            observations=frames,
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
            final_observations=np.array([row for _, row in finals], frames.dtype).reshape(-1, *frames.shape[2:]),
            episode_returns=[episode_return for episode_return, _ in self._finished],
            episode_lengths=[length for _, length in self._finished],
            frame_stack=self._frame_stack,
            initial_state=initial_state,
            held_steps=np.unique(np.array(self._held, np.int32)),
        )
