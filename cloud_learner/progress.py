"""How the run is going: returns, lag, speed, and whether the target is reached."""

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from cloud_learner.algorithms.algorithm import UpdateReport
from cloud_learner.batching import Batch
from cloud_learner.trajectory_queue import QueuedWindow
from corrector import policy_lag
from fleet_protocol.messages import PolicyLag
from fleet_protocol.sketch import LatencySketch

EPISODES: Final = 100
"""The return that counts is the mean of so many episodes."""


@dataclass(slots=True)
class Progress:
    """Counted by the learner's own thread.

    Attributes:
        target_return: Where to end, or None.
        started_at: Monotonic time of the first publication, before any environment step; 0 until then.
        reached_at: Monotonic time at which the target was reached; 0 until then.
        env_steps: Steps learned from.
        episodes: Episodes that ended inside the windows learned from.
        updates: Batches learned from.
        newest: The last update's report.
        trouble: What keeps the run from being saved or published, in a sentence; empty when all is well.
        state_refusals: How often the disk has refused the state.
    """

    target_return: float | None
    started_at: float = 0.0
    reached_at: float = 0.0
    env_steps: int = 0
    episodes: int = 0
    updates: int = 0
    newest: UpdateReport | None = None
    trouble: str = ""
    state_refusals: int = 0
    update_ms: LatencySketch = field(default_factory=LatencySketch)
    lags: LatencySketch = field(default_factory=LatencySketch)
    _returns: deque[float] = field(default_factory=lambda: deque[float](maxlen=EPISODES))
    _rate_mark: tuple[float, int] = (0.0, 0)

    def note_update(
        self, windows: list[QueuedWindow], batch: Batch, report: UpdateReport, *, version: int, seconds: float
    ) -> None:
        """Take in one update."""
        self.updates += 1
        self.newest = report
        self.update_ms.add(seconds * 1e3)
        self.env_steps += batch.rewards.numel()
        self.lags.add_many(policy_lag(version, batch.policy_versions).numpy())
        for window in windows:
            self.episodes += len(window.trajectory.episode_returns)
            self._returns.extend(window.trajectory.episode_returns)
        if self.target_return is not None and not self.reached_at and self._has_reached(self.target_return):
            self.reached_at = time.monotonic()

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps: the totals; returns begin anew."""
        return {"env_steps": self.env_steps, "episodes": self.episodes, "updates": self.updates}

    @property
    def return_mean_100(self) -> float | None:
        """Mean return of the last 100 episodes; None before the first one ended."""
        return math.fsum(self._returns) / len(self._returns) if self._returns else None

    @property
    def time_to_target_s(self) -> float | None:
        """Seconds from the first publication to the target; None if it was not reached."""
        return self.reached_at - self.started_at if self.reached_at else None

    @property
    def policy_lag(self) -> PolicyLag | None:
        """Lag of all steps learned from."""
        if not self.lags.count:
            return None
        return PolicyLag(mean=self.lags.mean, p95=self.lags.quantile(0.95), max=round(self.lags.maximum))

    @property
    def busy_ratio(self) -> float:
        """Share of the time since the first publication that was spent updating."""
        elapsed = time.monotonic() - self.started_at
        return self.update_ms.total / 1e3 / elapsed if self.started_at else 0.0

    def steps_per_s(self) -> float:
        """Steps a second since this was last asked."""
        then, steps = self._rate_mark
        now = time.monotonic()
        self._rate_mark = (now, self.env_steps)
        return (self.env_steps - steps) / (now - then) if then else 0.0

    def _has_reached(self, target: float) -> bool:
        mean = self.return_mean_100
        return len(self._returns) == EPISODES and mean is not None and mean >= target
