"""One window on its way from a worker to the learner: what outbox, schedule and disk hand to each other."""

from dataclasses import dataclass
from typing import Final

NO_WORKER: Final = -1
"""The worker of a window that an earlier boot produced: nobody waits for its ack."""

WindowKey = tuple[str, int]
"""(boot id, seq)."""


@dataclass(slots=True)
class OutboxEntry:
    """A window that is not acked.

    Attributes:
        boot_id: The boot that produced it, not always this one.
        seq: Its number on that boot.
        run_id: The run that it belongs to.
        worker: Serial number of the worker that waits for its ack, or `NO_WORKER`.
        body: The packed window.
        produced_at: Monotonic seconds; negative where an earlier boot of the machine produced it.
        next_send_at: Monotonic seconds.
        sends: How often it was sent on this connection.
        row: Where it is on disk; 0 when it is not.
    """

    boot_id: str
    seq: int
    run_id: str
    worker: int
    body: bytes
    produced_at: float
    next_send_at: float = 0.0
    sends: int = 0
    row: int = 0

    @property
    def key(self) -> WindowKey:
        """Its name on this board."""
        return self.boot_id, self.seq
