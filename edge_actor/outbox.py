"""What the learner has not acked: windows wait here, are sent, sent again, and leave only by an ack or a counted drop.

The delivery contract's board side (D1, D2, D4, D5): a PUBACK means nothing here. One thread uses it, the supervisor's.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from fleet_protocol.messages import AtRest, Ranges, RunCounters
from fleet_protocol.sequences import SequenceSet

_SEND_WINDOW: Final = 16
"""Unacked windows on their way at a time: under paho's and mosquitto's 20 in flight."""
_RESEND_FIRST_S: Final = 1.0
_RESEND_LIMIT_S: Final = 30.0


@dataclass(slots=True)
class OutboxEntry:
    """One window on its way."""

    seq: int
    run_id: str
    worker: int
    body: bytes
    produced_at: float
    next_send_at: float = 0.0
    sends: int = 0


@dataclass(slots=True)
class _RunAccount:
    produced: SequenceSet = field(default_factory=SequenceSet)
    dropped: dict[str, SequenceSet] = field(default_factory=dict[str, SequenceSet])
    env_steps: int = 0
    acked: int = 0


class Outbox:
    """Bounded in bytes; when full, the oldest window is dropped and counted.

    Args:
        max_bytes: Bound on the bodies' bytes.
        clock: Monotonic seconds.
        rng: Jitters the resends.
    """

    def __init__(self, *, max_bytes: int, clock: Callable[[], float], rng: random.Random) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._rng = rng
        self._entries: dict[int, OutboxEntry] = {}  # in the order of seq
        self._accounts: dict[str, _RunAccount] = {}
        self._next_seq = 0
        self._on_their_way = 0
        self._displaced: list[OutboxEntry] = []
        self.bytes = 0

    @property
    def oldest_seq(self) -> int:
        """The lowest seq still here; the next one to come when empty."""
        return next(iter(self._entries), self._next_seq)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, body: bytes, *, run_id: str, worker: int, env_steps: int) -> OutboxEntry:
        """Give a window its seq: from here on it is `produced`."""
        entry = OutboxEntry(self._next_seq, run_id, worker, body, self._clock())
        self._next_seq += 1
        self._entries[entry.seq] = entry
        self.bytes += len(body)
        account = self._accounts.setdefault(run_id, _RunAccount())
        account.produced.add(entry.seq)
        account.env_steps += env_steps
        while self.bytes > self._max_bytes:
            displaced = self._entries[self.oldest_seq]
            self._drop(displaced, "outbox_full")
            self._displaced.append(displaced)
        return entry

    def due(self) -> list[OutboxEntry]:
        """The windows to send now, oldest first, as far as the send window allows."""
        now = self._clock()
        due: list[OutboxEntry] = []
        for entry in self._entries.values():
            if self._on_their_way + sum(not e.sends for e in due) >= _SEND_WINDOW and not entry.sends:
                break
            if entry.next_send_at <= now:
                due.append(entry)
        return due

    def mark_sent(self, entry: OutboxEntry) -> None:
        """Note that a window was handed to the network, and when to do so again."""
        self._on_their_way += entry.sends == 0
        entry.sends += 1
        wait = min(_RESEND_LIMIT_S, _RESEND_FIRST_S * 2.0 ** (entry.sends - 1))
        entry.next_send_at = self._clock() + wait * self._rng.uniform(0.75, 1.25)

    def resend_all(self) -> None:
        """After a reconnect: what was on its way may be lost, so all of it is due."""
        for entry in self._entries.values():
            entry.next_send_at = 0.0
            entry.sends = 0
        self._on_their_way = 0

    def ack(self, finished: Ranges) -> list[OutboxEntry]:
        """Take the learner's word that windows are finished, and return those that leave.

        An ack always wins: a late one moves a seq from dropped to acked.
        """
        left: list[OutboxEntry] = []
        for first, last in finished:
            for seq in range(max(first, 0), min(last, self._next_seq - 1) + 1):
                if seq in self._entries:
                    left.append(self._remove(seq))
                elif not self._undrop(seq):
                    continue
                self._account_of(seq).acked += 1
        return left

    def drop_stale(self, *, run_id: str, max_age_s: float) -> list[OutboxEntry]:
        """Drop what belongs to another run or is older than the run allows, counted.

        Returns:
            These, and what overflow has displaced since the last call: their workers may begin others.
        """
        oldest = self._clock() - max_age_s
        stale = [e for e in self._entries.values() if e.run_id != run_id or e.produced_at < oldest]
        for entry in stale:
            self._drop(entry, "other_run" if entry.run_id != run_id else "stale")
        displaced, self._displaced = self._displaced, []
        return [*displaced, *stale]

    def counters(self) -> dict[str, RunCounters]:
        """What became of each run's windows."""
        return {run_id: self._run_counters(run_id, account) for run_id, account in self._accounts.items()}

    def at_rest(self, run_id: str) -> AtRest:
        """Which seqs of a run are where: the board's part of the accounts."""
        account = self._accounts.get(run_id, _RunAccount())
        return AtRest(
            run_id=run_id,
            produced=account.produced.ranges(),
            outbox=_as_ranges(e.seq for e in self._entries.values() if e.run_id == run_id),
            dropped={reason: seqs.ranges() for reason, seqs in account.dropped.items()},
        )

    def _run_counters(self, run_id: str, account: _RunAccount) -> RunCounters:
        return RunCounters(
            produced=len(account.produced),
            acked=account.acked,
            dropped={reason: len(seqs) for reason, seqs in account.dropped.items()},
            in_outbox=sum(entry.run_id == run_id for entry in self._entries.values()),
            env_steps=account.env_steps,
        )

    def _account_of(self, seq: int) -> _RunAccount:
        return next(account for account in self._accounts.values() if seq in account.produced)

    def _undrop(self, seq: int) -> bool:
        return any(seqs.discard(seq) for account in self._accounts.values() for seqs in account.dropped.values())

    def _drop(self, entry: OutboxEntry, reason: str) -> None:
        self._remove(entry.seq)
        self._accounts[entry.run_id].dropped.setdefault(reason, SequenceSet()).add(entry.seq)

    def _remove(self, seq: int) -> OutboxEntry:
        entry = self._entries.pop(seq)
        self.bytes -= len(entry.body)
        self._on_their_way -= entry.sends > 0
        return entry


def _as_ranges(seqs: Iterable[int]) -> Ranges:
    return SequenceSet((seq, seq) for seq in seqs).ranges()
