"""Where intake and learner meet: windows wait here, oldest first, and the most lagged leave when it is full."""

import threading
from collections import deque
from dataclasses import dataclass

from cloud_learner.delivery_ledger import BootKey
from fleet_protocol.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class QueuedWindow:
    """A window that was checked, and whose it is."""

    boot: BootKey
    seq: int
    trajectory: Trajectory


class TrajectoryQueue:
    """A bounded queue between two threads.

    Args:
        max_windows: When so many wait, the oldest leaves for a new one.
    """

    def __init__(self, max_windows: int = 256) -> None:
        self._windows: deque[QueuedWindow] = deque()
        self._max_windows = max_windows
        self._changed = threading.Condition()

    def put(self, window: QueuedWindow) -> QueuedWindow | None:
        """Add a window, and return the one that had to leave for it, if any."""
        with self._changed:
            displaced = self._windows.popleft() if len(self._windows) >= self._max_windows else None
            self._windows.append(window)
            self._changed.notify_all()
            return displaced

    def take(self, count: int, *, wait_s: float, idle_wait_s: float) -> list[QueuedWindow]:
        """Take up to `count` windows.

        Args:
            count: Windows in a full batch.
            wait_s: How long to wait for a full batch once a window is there.
            idle_wait_s: How long to wait for the first; an empty list comes back after that.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._windows, timeout=idle_wait_s):
                return []
            self._changed.wait_for(lambda: len(self._windows) >= count, timeout=wait_s)
            return [self._windows.popleft() for _ in range(min(count, len(self._windows)))]

    def __len__(self) -> int:
        return len(self._windows)
