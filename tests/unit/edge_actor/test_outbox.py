"""The outbox loses nothing without a counter: produced = acked + dropped + in_outbox, whatever happens."""

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from edge_actor.outbox import Outbox


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_outbox(max_bytes: int = 1000) -> tuple[Outbox, Clock]:
    clock = Clock()
    return Outbox(max_bytes=max_bytes, clock=clock, rng=random.Random(0)), clock


def add(outbox: Outbox, run_id: str = "r", size: int = 10) -> int:
    return outbox.add(b"x" * size, run_id=run_id, worker=0, env_steps=1).seq


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 40), st.sampled_from(["r", "s"])),
        st.tuples(st.just("ack"), st.integers(0, 30), st.integers(0, 5)),
        st.tuples(st.just("stale"), st.sampled_from(["r", "s"]), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.integers(0, 10), st.just(0)),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_every_window_is_somewhere(operations: list[tuple[str, object, object]]):
    outbox, clock = make_outbox(max_bytes=100)
    for kind, first, second in operations:
        match kind, first, second:
            case "add", int(size), str(run_id):
                add(outbox, run_id, size)
            case "ack", int(low), int(length):
                outbox.ack([(low, low + length)])
            case "stale", str(run_id), int(age):
                outbox.drop_stale(run_id=run_id, max_age_s=float(age))
            case _, int(seconds), _:
                clock.now += seconds
        for run_id, counters in outbox.counters().items():
            assert counters.produced == counters.acked + sum(counters.dropped.values()) + counters.in_outbox
            rest = outbox.at_rest(run_id)
            assert sum(last - low + 1 for low, last in rest.produced) == counters.produced
            assert sum(last - low + 1 for low, last in rest.outbox) == counters.in_outbox
        assert outbox.bytes <= 100


def test_a_late_ack_moves_a_window_from_dropped_to_acked():
    outbox, clock = make_outbox()
    seq = add(outbox)
    clock.now = 61
    assert [entry.seq for entry in outbox.drop_stale(run_id="r", max_age_s=60)] == [seq]
    assert outbox.counters()["r"].dropped == {"stale": 1}
    outbox.ack([(seq, seq)])
    assert outbox.counters()["r"].dropped == {"stale": 0}
    assert outbox.counters()["r"].acked == 1


def test_an_ack_counts_once_and_of_the_unknown_not_at_all():
    outbox, _ = make_outbox()
    seq = add(outbox)
    for ranges in ([(seq, seq)], [(seq, seq)], [(50, 60)]):
        outbox.ack(ranges)
    assert outbox.counters()["r"].acked == 1


def test_the_oldest_leave_when_it_is_full():
    outbox, _ = make_outbox(max_bytes=25)
    for _ in range(3):
        add(outbox)
    assert outbox.at_rest("r").outbox == [(1, 2)]
    assert outbox.at_rest("r").dropped == {"outbox_full": [(0, 0)]}
    assert outbox.oldest_seq == 1


def test_no_more_than_the_send_window_is_on_its_way_and_an_ack_makes_room():
    outbox, _ = make_outbox()
    for _ in range(20):
        add(outbox, size=1)
    first = outbox.due()
    assert [entry.seq for entry in first] == list(range(16))
    for entry in first:
        outbox.mark_sent(entry)
    assert outbox.due() == []
    outbox.ack([(0, 2)])
    assert [entry.seq for entry in outbox.due()] == [16, 17, 18]


def test_what_is_not_acked_is_sent_again_later_and_later():
    outbox, clock = make_outbox()
    add(outbox)
    gaps: list[float] = []
    for _ in range(8):
        (entry,) = outbox.due()
        sent_at = clock.now
        outbox.mark_sent(entry)
        while not outbox.due():
            clock.now += 0.05
        gaps.append(clock.now - sent_at)
    for gap, expected in zip(gaps, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert 0.75 * expected - 0.1 <= gap <= 1.25 * expected + 0.1


def test_after_a_reconnect_all_is_due_at_once():
    outbox, _ = make_outbox()
    add(outbox)
    outbox.mark_sent(outbox.due()[0])
    outbox.resend_all()
    assert len(outbox.due()) == 1


def test_an_empty_outbox_names_the_next_seq_as_its_oldest():
    outbox, _ = make_outbox()
    assert outbox.oldest_seq == 0
    outbox.ack([(add(outbox), 0)])
    assert outbox.oldest_seq == 1


def test_what_overflow_displaced_is_told_once_so_that_its_worker_can_go_on():
    outbox, _ = make_outbox(max_bytes=25)
    for _ in range(3):
        add(outbox)
    assert [entry.seq for entry in outbox.drop_stale(run_id="r", max_age_s=60)] == [0]
    assert outbox.drop_stale(run_id="r", max_age_s=60) == []


def test_an_ack_that_repeats_itself_or_runs_backwards_costs_no_more_than_what_it_names():
    outbox, _ = make_outbox()
    for _ in range(1000):
        outbox.add(b"x", run_id="r", worker=0, env_steps=1)
    started = time.process_time()
    acked = outbox.ack([*[(0, 2**48 - 1)] * 65_000, *[(n, n) for n in range(500, 0, -1)], (7, 3)])
    assert [entry.seq for entry in acked] == list(range(1000))
    assert time.process_time() - started < 5  # 65 million steps, when each range was walked
