"""Which windows are sent next: a bounded number on their way, repeats later and later, fresh ones before old ones.

After an outage the backlog must not hold up what is produced now, and must not starve: while both wait, fresh windows
have 12 of the 16 places on the way, and the backlog has 4. Within each the oldest goes first.
"""

import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from edge_actor.outbox_entry import OutboxEntry, WindowKey

SEND_WINDOW: Final = 16
"""Unacked windows on their way at a time: under paho's and mosquitto's 20 in flight."""
FRESH_PLACES: Final = 12
"""Of the send window, for fresh windows, while older ones wait too; and the rest for these."""
FRESH_S: Final = 10.0
"""Windows are fresh for so many seconds: no board that reaches its learner has one wait longer."""
_RESEND_FIRST_S: Final = 1.0
_RESEND_LIMIT_S: Final = 30.0

Lane = dict[WindowKey, OutboxEntry]


class SendSchedule:
    """Knows of every unacked window whether it waits, and in which lane, or is on its way.

    Args:
        clock: Monotonic seconds.
        rng: Jitters the resends.
    """

    def __init__(self, *, clock: Callable[[], float], rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._backlog: Lane = {}
        self._fresh: Lane = {}
        self._on_their_way: Lane = {}

    def add(self, entry: OutboxEntry) -> None:
        """A window waits; older ones are added first."""
        (self._fresh if self._is_fresh(entry) else self._backlog)[entry.key] = entry

    def remove(self, entry: OutboxEntry) -> None:
        """A window is acked or dropped."""
        for lane in (self._on_their_way, self._fresh, self._backlog):
            lane.pop(entry.key, None)

    def restart(self, entries: Iterable[OutboxEntry]) -> None:
        """After a reconnect: what was on its way may be lost, so all of it waits again."""
        for lane in (self._on_their_way, self._fresh, self._backlog):
            lane.clear()
        for entry in entries:
            entry.next_send_at = 0.0
            entry.sends = 0
            self.add(entry)

    def mark_sent(self, entry: OutboxEntry) -> None:
        """A window was handed to the network; note when to do so again."""
        self.remove(entry)
        self._on_their_way[entry.key] = entry
        entry.sends += 1
        wait = min(_RESEND_LIMIT_S, _RESEND_FIRST_S * 2.0 ** (entry.sends - 1))
        entry.next_send_at = self._clock() + wait * self._rng.uniform(0.75, 1.25)

    def due(self) -> list[OutboxEntry]:
        """The windows to send now: repeats whose time has come, and new ones as far as there are places."""
        now = self._clock()
        again = [entry for entry in self._on_their_way.values() if entry.next_send_at <= now]
        self._let_age()
        fresh, backlog = self._places()
        return [*again, *islice(self._backlog.values(), backlog), *islice(self._fresh.values(), fresh)]

    def _places(self) -> tuple[int, int]:
        """Free places for fresh windows and for the backlog."""
        free = max(0, SEND_WINDOW - len(self._on_their_way))
        fresh_now = sum(self._is_fresh(entry) for entry in self._on_their_way.values())
        backlog_now = len(self._on_their_way) - fresh_now
        fresh = min(free, len(self._fresh))
        if self._backlog:
            fresh = min(fresh, max(0, FRESH_PLACES - fresh_now))
        backlog = min(free - fresh, len(self._backlog))
        if len(self._fresh) > fresh:
            backlog = min(backlog, max(0, SEND_WINDOW - FRESH_PLACES - backlog_now))
        return fresh, backlog

    def _let_age(self) -> None:
        while self._fresh and not self._is_fresh(oldest := next(iter(self._fresh.values()))):
            self._backlog[oldest.key] = self._fresh.pop(oldest.key)

    def _is_fresh(self, entry: OutboxEntry) -> bool:
        return self._clock() - entry.produced_at <= FRESH_S
