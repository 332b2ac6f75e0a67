"""Which windows of one run on one boot are where: produced = acked + dropped + held (D4)."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Self

from fleet_protocol.commands import EarlierBoot
from fleet_protocol.messages import Ranges, RunCounters
from fleet_protocol.sequences import SequenceSet


def _no_drops() -> defaultdict[str, SequenceSet]:
    return defaultdict(SequenceSet)


@dataclass(slots=True)
class RunAccount:
    """Every produced window is held, dropped for a reason, or acked.

    Attributes:
        produced: Windows that got a seq.
        held: Those still in the outbox.
        dropped: Those given up, by reason.
        env_steps: Steps in what was produced since the agent's start.
        acked: Windows acked since the agent's start.
    """

    produced: SequenceSet = field(default_factory=SequenceSet)
    held: SequenceSet = field(default_factory=SequenceSet)
    dropped: dict[str, SequenceSet] = field(default_factory=_no_drops)
    env_steps: int = 0
    acked: int = 0

    @classmethod
    def from_disk(cls, saved: EarlierBoot, readable: SequenceSet) -> Self:
        """What an earlier boot last wrote; windows that cannot be read any more are dropped as `corrupt`."""
        account = cls(produced=SequenceSet(saved.produced), held=readable)
        for reason, ranges in saved.dropped.items():
            account.dropped[reason] = SequenceSet(ranges)
        for first, last in readable.ranges():
            account.produced.add_range(first, last)
        for seq in SequenceSet(saved.outbox):
            if seq not in readable:
                account.dropped["corrupt"].add(seq)
        return account

    @property
    def has_drops(self) -> bool:
        """It says what the learner cannot know."""
        return any(len(seqs) for seqs in self.dropped.values())

    def add(self, seq: int, env_steps: int) -> None:
        """A window is produced."""
        self.produced.add(seq)
        self.held.add(seq)
        self.env_steps += env_steps

    def drop(self, seq: int, reason: str) -> None:
        """A held window is given up."""
        self.held.discard(seq)
        self.dropped[reason].add(seq)

    def ack(self, seq: int) -> bool:
        """A window is finished; False for one that was acked before, or never produced. An ack wins over a drop."""
        was_here = self.held.discard(seq) or any(seqs.discard(seq) for seqs in self.dropped.values())
        self.acked += was_here
        return was_here

    def counters(self) -> RunCounters:
        """The account in numbers."""
        return RunCounters(
            produced=len(self.produced),
            acked=self.acked,
            dropped={reason: len(seqs) for reason, seqs in self.dropped.items()},
            in_outbox=len(self.held),
            env_steps=self.env_steps,
        )

    def whereabouts(self) -> EarlierBoot:
        """The account in ranges."""
        return EarlierBoot(
            produced=self.produced.ranges(),
            outbox=self.held.ranges(),
            dropped={reason: seqs.ranges() for reason, seqs in self.dropped.items()},
        )

    def within(self, finished: Ranges) -> list[int]:
        """The seqs of some ranges that this run has, whatever else the ranges claim."""
        lowest, highest = self.produced.lowest, self.produced.highest
        if lowest is None or highest is None:
            return []
        # Merged first: an ack that says the same range a thousand times must not cost a thousand walks.
        ours = ((max(first, lowest), min(last, highest)) for first, last in sorted(finished))
        return [seq for seq in SequenceSet(pair for pair in ours if pair[0] <= pair[1]) if seq in self.produced]
