"""The learner's accounts: nothing counts twice, and the identities of D4 hold in every case."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cloud_learner.delivery_ledger import DeliveryLedger
from edge_actor.outbox import Outbox
from fleet_protocol.commands import AtRest
from fleet_protocol.messages import Ranges
from fleet_protocol.sequences import SequenceSet

BOOT = ("b1", "boot")


def rest(produced: Ranges, outbox: Ranges | None = None, **dropped: Ranges) -> AtRest:
    return AtRest(run_id="r", produced=produced, outbox=outbox or [], dropped=dropped)


def learn(ledger: DeliveryLedger, *seqs: int) -> None:
    for seq in seqs:
        assert ledger.admit(BOOT, seq, oldest_seq=0) == "new"
        ledger.mark_learned(BOOT, seq)


def test_a_repeat_is_told_apart_by_where_the_first_one_is():
    ledger = DeliveryLedger()
    assert ledger.admit(BOOT, 0, oldest_seq=0) == "new"
    assert ledger.admit(BOOT, 0, oldest_seq=0) == "queued"
    ledger.mark_learned(BOOT, 0)
    assert ledger.admit(BOOT, 0, oldest_seq=0) == "finished"
    assert ledger.admit(BOOT, 1, oldest_seq=0) == "new"
    ledger.mark_refused(BOOT, 1, "stale")
    assert ledger.admit(BOOT, 1, oldest_seq=0) == "finished"
    ledger.note_at_rest(BOOT, rest([(0, 1)]))
    totals = ledger.totals()
    assert (totals.received, totals.duplicates, totals.learned, totals.refused) == (5, 3, 1, 1)
    assert totals.add_up


def test_what_is_below_the_oldest_seq_is_not_taken_any_more():
    ledger = DeliveryLedger()
    assert ledger.admit(BOOT, 9, oldest_seq=5) == "new"
    assert ledger.admit(BOOT, 3, oldest_seq=2) == "finished"


def test_windows_at_rest_are_counted_where_they_are():
    ledger = DeliveryLedger()
    learn(ledger, 0, 1, 2)
    ledger.admit(BOOT, 3, oldest_seq=3)
    ledger.note_at_rest(BOOT, rest([(0, 9)], [(3, 5)], outbox_full=[(6, 7)]))
    totals = ledger.totals()
    assert (totals.produced, totals.learned, totals.in_outbox, totals.queued) == (10, 3, 3, 1)
    assert totals.dropped == {"outbox_full": 2}
    assert totals.lost_window == 2  # 8 and 9 are nowhere
    assert totals.add_up


def test_an_ack_always_wins_over_a_drop_and_an_outbox():
    ledger = DeliveryLedger()
    learn(ledger, 0, 1)
    ledger.note_at_rest(BOOT, rest([(0, 1)], [(0, 0)], stale=[(1, 1)]))
    totals = ledger.totals()
    assert (totals.learned, totals.in_outbox, totals.dropped, totals.lost_window) == (2, 0, {"stale": 0}, 0)
    assert totals.add_up


def test_a_crash_forgets_what_was_queued_and_reports_what_was_acked_since_the_checkpoint():
    ledger = DeliveryLedger()
    learn(ledger, 0, 1)
    checkpoint = ledger.state()
    learn(ledger, 2, 3)  # acked, and then the learner dies
    resumed = DeliveryLedger.from_state(checkpoint)
    assert resumed.admit(BOOT, 4, oldest_seq=4) == "new"
    resumed.mark_learned(BOOT, 4)
    resumed.note_at_rest(BOOT, rest([(0, 4)]))
    totals = resumed.totals()
    assert (totals.learned, totals.lost_window) == (3, 2)
    assert totals.add_up


def test_a_dead_boot_is_taken_to_have_produced_all_below_its_highest_seen():
    ledger = DeliveryLedger()
    learn(ledger, 0, 4)
    totals = ledger.totals()
    assert (totals.produced, totals.learned, totals.lost_window) == (5, 2, 3)
    assert totals.add_up


def test_a_dead_boot_whose_windows_come_later_is_accounted_for_exactly():
    ledger = DeliveryLedger()
    learn(ledger, 0, 1, 7)  # 7 came after the boot had last written to disk that it produced 0 to 5
    learn(ledger, 3)  # on disk, and sent by the next boot
    ledger.note_at_rest(BOOT, rest([(0, 5)], [(4, 4)], corrupt=[(5, 5)]))
    totals = ledger.totals()
    assert (totals.produced, totals.learned, totals.in_outbox) == (8, 4, 1)
    assert totals.dropped == {"corrupt": 1}
    assert totals.lost_window == 2  # 2 and 6
    assert totals.add_up


def test_a_late_ack_of_an_earlier_boot_takes_its_window_out_of_the_lost_ones():
    ledger = DeliveryLedger()
    learn(ledger, 9)
    assert ledger.totals().lost_window == 9
    for seq in range(9):
        assert ledger.admit(BOOT, seq, oldest_seq=seq) == "new"
        ledger.mark_learned(BOOT, seq)
    assert ledger.totals().lost_window == 0
    assert ledger.totals().add_up


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["produce", "send", "learn", "refuse", "ack", "drop", "crash", "save"]), st.integers(0, 50)
    ),
    max_size=80,
)


class Fleet:
    """A board's real outbox and a ledger, joined by a network that delivers, repeats or forgets as it likes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.outbox = Outbox(max_bytes=30, clock=lambda: self.now, rng=random.Random(0))
        self.ledger = DeliveryLedger()
        self.checkpoint = self.ledger.state()
        self.queued: list[int] = []
        self.finished: list[int] = []

    def produce(self, _: int) -> None:
        self.outbox.add(b"xxx", run_id="r", worker=0, env_steps=1)

    def send(self, number: int) -> None:
        waiting = list(SequenceSet(self.outbox.at_rest("r").outbox))
        if waiting:
            seq = waiting[number % len(waiting)]
            if self.ledger.admit(BOOT, seq, oldest_seq=self.outbox.oldest_seq) == "new":
                self.queued.append(seq)

    def learn(self, number: int) -> None:
        if self.queued:
            self.finished.append(self.queued.pop(number % len(self.queued)))
            self.ledger.mark_learned(BOOT, self.finished[-1])

    def refuse(self, number: int) -> None:
        if self.queued:
            self.finished.append(self.queued.pop(number % len(self.queued)))
            self.ledger.mark_refused(BOOT, self.finished[-1], "stale")

    def ack(self, number: int) -> None:
        if self.finished:
            seq = self.finished[number % len(self.finished)]
            self.outbox.ack([(seq, seq)])

    def drop(self, number: int) -> None:
        self.now += number
        self.outbox.drop_stale(run_id="r", max_age_s=25)

    def save(self, _: int) -> None:
        self.checkpoint = self.ledger.state()

    def crash(self, _: int) -> None:
        self.ledger, self.queued, self.finished = DeliveryLedger.from_state(self.checkpoint), [], []


@given(EVENTS)
def test_the_accounts_of_board_and_learner_agree_whatever_happens(events: list[tuple[str, int]]):
    fleet = Fleet()
    for kind, number in events:
        getattr(fleet, kind)(number)
    at_rest = fleet.outbox.at_rest("r")
    fleet.ledger.note_at_rest(BOOT, at_rest)
    totals = fleet.ledger.totals()
    assert totals.add_up, totals
    assert totals.produced == len(SequenceSet(at_rest.produced))
    assert totals.queued == len(fleet.queued)


def test_a_board_that_claims_a_huge_range_costs_no_time():
    ledger = DeliveryLedger()
    ledger.note_at_rest(("b", "x"), rest([(0, 2**47)], outbox=[(10, 2**46)], stale=[(0, 9)]))
    totals = ledger.totals()
    assert totals.produced == 2**47 + 1
    assert totals.dropped == {"stale": 10}
    assert totals.lost_window == 2**47 - 2**46
    assert totals.add_up
