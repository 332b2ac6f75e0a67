"""Which windows are finished: the learner's side of the delivery contract (D2-D4).

A window is finished when it was used in an update, or refused for a counted reason. Both marks are saved with every
checkpoint; what is queued is not, because a crash forgets it and the board sends it again.
"""

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fleet_protocol.codec import BadMessage
from fleet_protocol.commands import AtRest, EarlierBoot
from fleet_protocol.messages import Ranges
from fleet_protocol.sequences import SequenceSet

BootKey = tuple[str, str]
"""(board id, boot id): seqs count from 0 in each."""

MAX_BOOTS: Final = 1000
"""Of one board in one run: a day of restarts every two minutes."""

Admission = Literal["new", "finished", "queued"]


@dataclass(slots=True)
class _BootAccount:
    low_mark: int = -1  # this and all below are finished or gone
    highest_seen: int = -1
    learned: SequenceSet = field(default_factory=SequenceSet)
    refused: dict[str, SequenceSet] = field(default_factory=dict[str, SequenceSet])
    queued: SequenceSet = field(default_factory=SequenceSet)

    def is_finished(self, seq: int) -> bool:
        return seq in self.learned or any(seq in seqs for seqs in self.refused.values())

    def finished(self) -> SequenceSet:
        """All that was learned or refused."""
        sets = (self.learned, *self.refused.values())
        return SequenceSet(itertools.chain.from_iterable(seqs.ranges() for seqs in sets))


@dataclass(frozen=True, slots=True)
class DeliveryTotals:
    """The accounts of a run, which add up (D4).

    `produced = learned + dropped + in_outbox + lost_window`, and `received = learned + refused + duplicates + queued`.

    Attributes:
        produced: Windows that got a seq on a board.
        learned: Used in an update.
        dropped: By reason, on boards and (refused) by the learner.
        in_outbox: Still on a board, and not finished.
        lost_window: Produced, and nowhere any more.
        received: Windows that came, repeats included.
        refused: The learner's part of `dropped`.
        duplicates: Repeats of what was finished or queued.
        queued: In the learner's memory.
    """

    produced: int
    learned: int
    dropped: dict[str, int]
    in_outbox: int
    lost_window: int
    received: int
    refused: int
    duplicates: int
    queued: int

    @property
    def add_up(self) -> bool:
        """Both identities hold."""
        finished_or_waiting = self.learned + sum(self.dropped.values()) + self.in_outbox + self.lost_window
        arrived = self.learned + self.refused + self.duplicates + self.queued
        return self.produced == finished_or_waiting and self.received == arrived


class DeliveryLedger:
    """Accounts of one run, safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boots: dict[BootKey, _BootAccount] = {}
        self._boots_of: Counter[str] = Counter()
        self._at_rest: dict[BootKey, AtRest | EarlierBoot] = {}
        self._received = 0
        self._duplicates = 0

    def admit(self, boot: BootKey, seq: int, *, oldest_seq: int) -> Admission:
        """Take note that a window came; only a `new` one may be queued or refused.

        `oldest_seq` moves the low mark, so that holes left by drops never wedge anything and nothing is taken twice.

        Raises:
            BadMessage: The board has begun more boots than any board does; each costs memory for good.
        """
        with self._lock:
            account = self._account(boot)
            self._received += 1
            account.low_mark = max(account.low_mark, oldest_seq - 1)
            account.highest_seen = max(account.highest_seen, seq)
            if seq in account.queued:
                self._duplicates += 1
                return "queued"
            if seq <= account.low_mark or account.is_finished(seq):
                self._duplicates += 1
                return "finished"
            account.queued.add(seq)
            return "new"

    def _account(self, boot: BootKey) -> _BootAccount:
        account = self._boots.get(boot)
        if account is None:
            if self._boots_of[boot[0]] >= MAX_BOOTS:
                raise BadMessage(f"board {boot[0]} has sent windows of more than {MAX_BOOTS} starts of its agent")
            self._boots_of[boot[0]] += 1
            account = self._boots[boot] = _BootAccount()
        return account

    def mark_learned(self, boot: BootKey, seq: int) -> None:
        """A queued window was used in an update."""
        with self._lock:
            self._boots[boot].queued.discard(seq)
            self._boots[boot].learned.add(seq)

    def mark_refused(self, boot: BootKey, seq: int, reason: str) -> None:
        """A queued window was refused."""
        with self._lock:
            account = self._boots[boot]
            account.queued.discard(seq)
            account.refused.setdefault(reason, SequenceSet()).add(seq)

    def note_at_rest(self, boot: BootKey, at_rest: AtRest | EarlierBoot) -> None:
        """A paused board has said where the windows of one of its boots are."""
        with self._lock:
            self._at_rest[boot] = at_rest

    def totals(self) -> DeliveryTotals:
        """The accounts; exact when all boards are at rest.

        A boot that has not said where its windows are (dead, or out of reach) is taken to have produced all up to the
        highest seq seen, and to hold nothing. What a later boot says for a dead one is as old as its last write to
        disk: it is taken to have produced, after that, all up to the highest seq seen.
        """
        with self._lock:
            produced = learned = in_outbox = lost = refused = queued = 0
            dropped: Counter[str] = Counter()
            for boot in self._boots.keys() | self._at_rest.keys():
                account = self._boots.get(boot, _BootAccount())
                rest = self._at_rest.get(boot) or _as_if_nothing_left(account)
                for reason, seqs in account.refused.items():
                    dropped[reason] += len(seqs)
                    refused += len(seqs)
                waiting = _unfinished(rest.outbox, account)
                gone = Counter({reason: _unfinished(ranges, account) for reason, ranges in rest.dropped.items()})
                dropped.update(gone)
                produced += len(_produced(rest, account))
                learned += len(account.learned)
                queued += len(account.queued)
                in_outbox += waiting
                lost += _nowhere(rest, account)
            return DeliveryTotals(
                produced=produced,
                learned=learned,
                dropped=dict(dropped),
                in_outbox=in_outbox,
                lost_window=lost,
                received=self._received,
                refused=refused,
                duplicates=self._duplicates,
                queued=queued,
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: marks of learned and refused windows, nothing queued."""
        with self._lock:
            finished = sum(
                len(account.learned) + sum(map(len, account.refused.values())) for account in self._boots.values()
            )
            return {
                "received": finished + self._duplicates,
                "duplicates": self._duplicates,
                "boots": [
                    {
                        "board_id": board_id,
                        "boot_id": boot_id,
                        "low_mark": account.low_mark,
                        "highest_seen": account.highest_seen,
                        "learned": account.learned.ranges(),
                        "refused": {reason: seqs.ranges() for reason, seqs in account.refused.items()},
                    }
                    for (board_id, boot_id), account in self._boots.items()
                ],
            }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "DeliveryLedger":
        """Go on from a checkpoint."""
        ledger = cls()
        ledger._received = state["received"]
        ledger._duplicates = state["duplicates"]
        for boot in state["boots"]:
            ledger._boots_of[boot["board_id"]] += 1
            ledger._boots[boot["board_id"], boot["boot_id"]] = _BootAccount(
                low_mark=boot["low_mark"],
                highest_seen=boot["highest_seen"],
                learned=SequenceSet(map(tuple, boot["learned"])),
                refused={reason: SequenceSet(map(tuple, ranges)) for reason, ranges in boot["refused"].items()},
            )
        return ledger


def _unfinished(ranges: Ranges, account: _BootAccount) -> int:
    # An ack always wins: what the learner has finished is not dropped, and not in an outbox.
    seqs = SequenceSet(ranges)
    return len(seqs) - seqs.overlap(account.finished())


def _nowhere(rest: AtRest | EarlierBoot, account: _BootAccount) -> int:
    known = account.finished()
    for first, last in itertools.chain(rest.outbox, *rest.dropped.values()):
        known.add_range(first, last)
    produced = _produced(rest, account)
    return len(produced) - produced.overlap(known)


def _produced(rest: AtRest | EarlierBoot, account: _BootAccount) -> SequenceSet:
    produced = SequenceSet(rest.produced)
    last = -1 if produced.highest is None else produced.highest
    if account.highest_seen > last:  # only of a dead boot
        produced.add_range(last + 1, account.highest_seen)
    return produced


def _as_if_nothing_left(account: _BootAccount) -> EarlierBoot:
    produced = [(0, account.highest_seen)] if account.highest_seen >= 0 else []
    return EarlierBoot(produced=produced, outbox=account.queued.ranges(), dropped={})
