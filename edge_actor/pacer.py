"""A fixed rate: ticks at start + k / rate, whatever the steps in between take (ADR 7)."""

import time
from typing import Final

_NS: Final = 1_000_000_000


class Pacer:
    """Waits for the next tick, and says how many went by unserved.

    Args:
        hz: Ticks a second.

    Attributes:
        lateness_ns: How much later than its time the last tick began: the jitter of sleeping and waking up.
    """

    def __init__(self, hz: float) -> None:
        self._period_ns = round(_NS / hz)
        self._due_ns: int | None = None
        self.lateness_ns = 0

    def restart(self) -> None:
        """The next call of `wait` begins a new count, after a halt."""
        self._due_ns = None

    def wait(self) -> int:
        """Sleep until the next tick.

        Returns:
            How many ticks passed since the last call without being waited for: 0 when the work was done in time. They
            are skipped, and the wait is for the first tick after them.
        """
        now = time.monotonic_ns()
        due = now if self._due_ns is None else self._due_ns
        missed = 0 if now <= due else 1 + (now - due) // self._period_ns
        due += missed * self._period_ns
        if due > now:
            time.sleep((due - now) / _NS)
        self.lateness_ns = max(0, time.monotonic_ns() - due)
        self._due_ns = due + self._period_ns
        return missed
