"""All copies of a worker's environment together: stepped, kept count of, and made anew where they fail."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_actor.beholder import Beholder
from edge_actor.board_spaces import EnvironmentFault
from edge_actor.environment_copy import EnvironmentCopy
from fleet_protocol.exit_codes import ExitCode, ProgramError

_FAULTS_IN_A_ROW: Final = 10
_PLAIN_PYTHON_UP_TO: Final = 64
"""Below so many numbers a Python sum beats numpy's call overhead."""

CountFault = Callable[[str, str], None]
"""Takes a counter's name and a sentence."""


class Ended(NamedTuple):
    """An episode that is over; `failed` where a fault cut it off, so that its return says nothing."""

    copy: int
    terminated: bool
    truncated: bool
    failed: bool = False


class Players:
    """N copies, of which each may fail without harm to the others.

    A copy that raises, breaks Gymnasium's contract, or gives a number that is not finite, is closed and made anew: its
    episode ends there, truncated, after its last sound observation.

    Args:
        copies: The environments.
        beholder: Forgets what it saw of a copy whose episode begins.
        clock: Entered while the environments' code runs.
        count: Told of every fault.
    """

    def __init__(
        self,
        copies: list[EnvironmentCopy],
        beholder: Beholder,
        *,
        clock: AbstractContextManager[object],
        count: CountFault,
    ) -> None:
        self._copies = copies
        self._beholder = beholder
        self._clock = clock
        self._count = count
        self._returns = [0.0] * len(copies)
        self._lengths = [0] * len(copies)
        self._faults_in_a_row = [0] * len(copies)

    def reset_all(self, rows: NDArray[Any], *, seed: int | None) -> None:
        """Begin an episode in each copy; the first observations go to rows `[N, ...]`."""
        for copy in range(len(self._copies)):
            self.reset(copy, rows, seed=None if seed is None else seed + copy)

    def reset(self, copy: int, rows: NDArray[Any], *, seed: int | None = None) -> None:
        """Begin an episode in one copy, which is made anew as often as that takes.

        Raises:
            ProgramError: It failed too often in a row, or cannot be made.
        """
        with self._clock:
            while not self._is_reset(copy, rows, seed):
                continue
        self._beholder.begin_episode(copy, rows[copy])

    def step_all(self, actions: list[Any], rows: NDArray[Any], rewards: NDArray[np.float32]) -> list[Ended]:
        """Step each copy; observations go to rows `[N, ...]`, rewards to `[N]`.

        The rows of ended episodes are their last observations; `reset` comes next.
        """
        ended: list[Ended] = []
        returns, lengths = self._returns, self._lengths
        with self._clock:
            for copy, environment in enumerate(self._copies):
                try:
                    rows[copy], reward, terminated, truncated = environment.step(actions[copy])
                except EnvironmentFault as fault:
                    ended.append(self._fail(copy, rows, rewards, fault))
                    continue
                rewards[copy] = reward
                returns[copy] += reward
                lengths[copy] += 1
                if terminated or truncated:
                    ended.append(Ended(copy, bool(terminated), bool(truncated)))
        return ended if self._all_finite(rows) else self._fail_where_not_finite(rows, rewards, ended)

    def finish(self, copy: int) -> tuple[float, int]:
        """Return and length of a copy's episode that is over."""
        finished = self._returns[copy], self._lengths[copy]
        self._returns[copy], self._lengths[copy] = 0.0, 0
        return finished

    def out_of_bounds(self, rows: NDArray[Any]) -> tuple[int, str] | None:
        """How many of the observations `[T, N, D]` leave their declared bounds, and a sentence about one of them."""
        bounds = self._copies[0].bounds
        if bounds is None:
            return None
        low, high = bounds
        outside = (rows < low) | (rows > high)
        count = int(outside.any(axis=-1).sum())
        if not count:
            return None
        entry = int(np.flatnonzero(outside.any(axis=(0, 1)))[0])
        return count, (
            f"entry {entry} of an observation leaves its declared bounds {low[entry]:g} to {high[entry]:g}; bounds are "
            "often wrong, so it is only counted (observations_out_of_bounds)"
        )

    def _is_reset(self, copy: int, rows: NDArray[Any], seed: int | None) -> bool:
        try:
            rows[copy] = self._copies[copy].reset(seed)
            if not np.isfinite(rows[copy]).all():
                raise EnvironmentFault("reset gave an observation that is not finite")  # noqa: TRY301
        except EnvironmentFault as fault:
            self._remake(copy, fault)
            return False
        return True

    def _all_finite(self, rows: NDArray[Any]) -> bool:
        if rows.dtype != np.float32:
            return True
        if rows.size > _PLAIN_PYTHON_UP_TO:
            return bool(np.isfinite(rows).all())
        return math.isfinite(sum(rows.ravel().tolist()))  # a nan or an infinity anywhere leaves no finite sum

    def _fail_where_not_finite(
        self, rows: NDArray[Any], rewards: NDArray[np.float32], ended: list[Ended]
    ) -> list[Ended]:
        broken = set(np.flatnonzero(~np.isfinite(rows).all(axis=-1)).tolist())
        kept = [end for end in ended if end.copy not in broken]
        for copy in broken:
            self._lengths[copy] -= 1  # it was no step
        fault = EnvironmentFault("step gave an observation that is not finite")
        return kept + [self._fail(copy, rows, rewards, fault) for copy in sorted(broken)]

    def _fail(self, copy: int, rows: NDArray[Any], rewards: NDArray[np.float32], fault: EnvironmentFault) -> Ended:
        self._remake(copy, fault)
        rows[copy] = self._beholder.newest(copy)  # the last sound observation ends the episode
        rewards[copy] = 0.0
        return Ended(copy, terminated=False, truncated=True, failed=True)

    def _remake(self, copy: int, fault: EnvironmentFault) -> None:
        has_progressed = self._lengths[copy] > 0
        self._faults_in_a_row[copy] = 1 if has_progressed else self._faults_in_a_row[copy] + 1
        sentence = f"environment copy {copy}: {fault}"[:1000]
        if self._faults_in_a_row[copy] >= _FAULTS_IN_A_ROW:
            raise ProgramError(
                ExitCode.ENVIRONMENT_FAILED, f"{sentence} ({_FAULTS_IN_A_ROW} faults without one sound step between)"
            ) from fault
        self._count("environment_faults", f"{sentence}; it is made anew")
        self._copies[copy].remake()
