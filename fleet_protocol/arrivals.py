"""Where a network thread leaves what came, and another thread finds it: bounded, since senders do not wait for us.

MQTT acks a message when it is handed over, so a sender is never slowed down by whoever reads slowly. What comes again
by itself (telemetry is cumulative, an unacked window is sent once more) has a quarter of the room, so that it never
displaces what is said once.
"""

import queue
import threading
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Arrivals(Generic[ItemT]):
    """A queue from one thread to another that refuses what it has no room for.

    Args:
        max_messages: So many may wait.
        max_bytes: So many bytes of payload may wait.
    """

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self._items: queue.SimpleQueue[tuple[ItemT | None, int]] = queue.SimpleQueue()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._bytes = 0

    def put(self, item: ItemT, *, size_bytes: int, comes_again: bool = False) -> bool:
        """Leave something; False where there is no room, and then it is gone: whoever calls counts it."""
        share = 4 if comes_again else 1
        with self._lock:
            waiting = self._bytes + size_bytes
            if waiting > self._max_bytes // share or self._items.qsize() >= self._max_messages // share:
                return False
            self._bytes = waiting
        self._items.put((item, size_bytes))
        return True

    def end(self) -> None:
        """Have the reader find None, after all that waits."""
        self._items.put((None, 0))

    def get(self, timeout_s: float | None = None) -> ItemT | None:
        """Take the oldest, and wait for it, for ever without a time; None is the end.

        Raises:
            queue.Empty: Nothing came in time.
        """
        item, size_bytes = self._items.get(timeout=timeout_s)
        with self._lock:
            self._bytes -= size_bytes
        return item

    def __len__(self) -> int:
        return self._items.qsize()
