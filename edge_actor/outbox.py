"""What the learner has not acked: windows wait here, are sent, sent again, and leave only by an ack or a counted drop.

The delivery contract's board side (D1, D2, D4, D5): a PUBACK means nothing here. One thread uses it, the supervisor's.
Windows of this boot are here, and those that earlier boots left on disk (`outbox_keeper.py`), under their boot's seqs.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain

from msgspec import structs

from edge_actor.outbox_account import RunAccount
from edge_actor.outbox_entry import NO_WORKER, OutboxEntry, WindowKey
from edge_actor.send_schedule import SendSchedule
from fleet_protocol.commands import AtRest, EarlierBoot
from fleet_protocol.messages import Ranges, RunCounters
from fleet_protocol.sequences import SequenceSet

AccountKey = tuple[str, str]
"""(boot id, run id)."""


class Outbox:
    """Bounded in bytes; when full, the oldest window is dropped and counted.

    Args:
        max_bytes: Bound on the bodies' bytes, of all boots together.
        clock: Monotonic seconds.
        rng: Jitters the resends.
        boot_id: This start of the agent.

    Attributes:
        bytes: Of all bodies.
        recovered: What became of windows of earlier boots: outbox_recovered = recovered_acked + recovered_dropped +
            those still here.
        departed_rows: Rows on disk of windows that have left; whoever deletes the rows empties the list.
    """

    def __init__(
        self, *, max_bytes: int, clock: Callable[[], float], rng: random.Random, boot_id: str = "this"
    ) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._boot_id = boot_id
        self._entries: dict[WindowKey, OutboxEntry] = {}  # the oldest first
        self._unsaved: dict[WindowKey, OutboxEntry] = {}
        self._accounts: dict[AccountKey, RunAccount] = {}
        self._schedule = SendSchedule(clock=clock, rng=rng)
        self._next_seq = 0
        self._displaced: list[OutboxEntry] = []
        self._run_id = ""
        self.bytes = 0
        self.recovered: Counter[str] = Counter()
        self.departed_rows: list[int] = []

    @property
    def oldest_seq(self) -> int:
        """The lowest seq of this boot that is still here; the next one to come when there is none."""
        return self.oldest_seq_of(self._boot_id)

    def __len__(self) -> int:
        return len(self._entries)

    # --- windows come -----------------------------------------------------------------------------------------------

    def add(self, body: bytes, *, run_id: str, worker: int, env_steps: int) -> OutboxEntry:
        """Give a window its seq: from here on it is `produced`."""
        entry = OutboxEntry(self._boot_id, self._next_seq, run_id, worker, body, self._clock())
        self._next_seq += 1
        self._accounts.setdefault((self._boot_id, run_id), RunAccount()).add(entry.seq, env_steps)
        self._take(entry)
        self._make_room()
        return entry

    def restore(self, entries: Iterable[OutboxEntry], accounts: Mapping[AccountKey, RunAccount]) -> None:
        """Take over what earlier boots left, before anything is added; the oldest first."""
        self._accounts.update(accounts)
        for entry in entries:
            self.recovered["outbox_recovered"] += 1
            self._take(entry)
        self._make_room()

    # --- windows are sent -------------------------------------------------------------------------------------------

    def due(self) -> list[OutboxEntry]:
        """The windows to send now, as far as the send window allows."""
        return self._schedule.due()

    def mark_sent(self, entry: OutboxEntry) -> None:
        """Note that a window was handed to the network, and when to do so again."""
        self._schedule.mark_sent(entry)

    def resend_all(self) -> None:
        """After a reconnect: what was on its way may be lost, so all of it is due."""
        self._schedule.restart(self._entries.values())

    def oldest_seq_of(self, boot_id: str) -> int:
        """The lowest seq of a boot that is still here; for an earlier boot one of its windows must be here."""
        lowest = [account.held.lowest for (boot, _), account in self._accounts.items() if boot == boot_id]
        return min((seq for seq in lowest if seq is not None), default=self._next_seq)

    # --- windows leave ----------------------------------------------------------------------------------------------

    def ack(self, finished: Ranges, *, boot_id: str | None = None) -> list[OutboxEntry]:
        """Take the learner's word that windows of a boot (by default this one) are finished; returns those that leave.

        An ack always wins: a late one moves a seq from dropped to acked.
        """
        acked_boot = self._boot_id if boot_id is None else boot_id
        left: list[OutboxEntry] = []
        for (boot, _), account in self._accounts.items():
            if boot != acked_boot:
                continue
            for seq in account.within(finished):
                entry = self._entries.get((boot, seq))
                if account.ack(seq) and entry is not None:
                    left.append(self._remove(entry))
                    self.recovered["recovered_acked"] += entry.worker == NO_WORKER
        return sorted(left, key=lambda entry: entry.seq)

    def drop_stale(self, *, run_id: str, max_age_s: float) -> list[OutboxEntry]:
        """Drop what belongs to another run or is older than the run allows, counted.

        Returns:
            These, and what overflow has displaced since the last call: their workers may begin others.
        """
        self._run_id = run_id
        oldest = self._clock() - max_age_s
        stale = [e for e in self._entries.values() if e.run_id != run_id or e.produced_at < oldest]
        for entry in stale:
            self._drop(entry, "other_run" if entry.run_id != run_id else "stale")
        displaced, self._displaced = self._displaced, []
        return [*displaced, *stale]

    # --- accounts ---------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, RunCounters]:
        """What became of each run's windows on this boot."""
        return {
            run_id: account.counters() for (boot, run_id), account in self._accounts.items() if boot == self._boot_id
        }

    def at_rest(self, run_id: str) -> AtRest:
        """Which seqs of a run are where: the board's part of the accounts, earlier boots included."""
        earlier = {
            boot: account.whereabouts()
            for (boot, run), account in self._accounts.items()
            if run == run_id and boot != self._boot_id
        }
        ours = self._accounts.get((self._boot_id, run_id), RunAccount()).whereabouts()
        return AtRest(run_id=run_id, produced=ours.produced, outbox=ours.outbox, dropped=ours.dropped, earlier=earlier)

    # --- what the disk keeps ----------------------------------------------------------------------------------------

    def unsaved(self) -> list[OutboxEntry]:
        """Windows that are not on disk, the oldest first."""
        return list(self._unsaved.values())

    def oldest_unsaved_s(self) -> float:
        """Age of the oldest window that is not on disk, in seconds; 0 when all are."""
        return max((self._clock() - e.produced_at for e in self._first_unsaved()), default=0.0)

    def mark_saved(self, rows: Mapping[WindowKey, int]) -> None:
        """These are on disk now."""
        for key, row in rows.items():
            self._unsaved.pop(key).row = row

    def forget_disk(self) -> None:
        """Nothing is on disk any more."""
        for entry in self._entries.values():
            entry.row = 0
        self._unsaved = dict(self._entries)
        self.departed_rows.clear()

    def accounts_on_disk(self, saving: Iterable[OutboxEntry]) -> dict[AccountKey, EarlierBoot]:
        """What a later boot must know once `saving` is on disk: accounts with windows there, or with drops of this run.

        Their `outbox` names what is on disk; what is only in memory will be nowhere if this boot is killed.
        """
        on_disk: defaultdict[AccountKey, SequenceSet] = defaultdict(SequenceSet)
        for entry in chain((entry for entry in self._entries.values() if entry.row), saving):
            on_disk[entry.boot_id, entry.run_id].add(entry.seq)
        return {
            key: structs.replace(account.whereabouts(), outbox=on_disk[key].ranges())
            for key, account in self._accounts.items()
            if on_disk[key] or (account.has_drops and self._run_id in ("", key[1]))
        }

    def _first_unsaved(self) -> Iterable[OutboxEntry]:
        first = next(iter(self._unsaved.values()), None)
        return () if first is None else (first,)

    def _take(self, entry: OutboxEntry) -> None:
        self._entries[entry.key] = entry
        if not entry.row:
            self._unsaved[entry.key] = entry
        self._schedule.add(entry)
        self.bytes += len(entry.body)

    def _make_room(self) -> None:
        while self.bytes > self._max_bytes:
            displaced = next(iter(self._entries.values()))
            self._drop(displaced, "outbox_full")
            self._displaced.append(displaced)

    def _drop(self, entry: OutboxEntry, reason: str) -> None:
        self._remove(entry)
        self._accounts[entry.boot_id, entry.run_id].drop(entry.seq, reason)
        self.recovered["recovered_dropped"] += entry.worker == NO_WORKER

    def _remove(self, entry: OutboxEntry) -> OutboxEntry:
        del self._entries[entry.key]
        self._unsaved.pop(entry.key, None)
        self._schedule.remove(entry)
        if entry.row:
            self.departed_rows.append(entry.row)
        self.bytes -= len(entry.body)
        return entry
