"""What is sent next: fresh windows pass a backlog at 12 places to 4, and neither ever starves."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_actor.outbox import Outbox
from edge_actor.send_schedule import FRESH_PLACES, FRESH_S, SEND_WINDOW


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_outbox(backlog: int) -> tuple[Outbox, Clock]:
    clock = Clock()
    outbox = Outbox(max_bytes=10**9, clock=clock, rng=random.Random(0), boot_id="b")
    for _ in range(backlog):
        outbox.add(b"x", run_id="r", worker=0, env_steps=1)
    clock.now += FRESH_S + 1
    return outbox, clock


def test_while_both_wait_the_backlog_gets_a_quarter_and_both_keep_their_order():
    outbox, clock = make_outbox(backlog=500)
    sent: list[int] = []
    shares: Counter[bool] = Counter()
    for _ in range(100):  # the learner acks four windows in 10 ms, and the board produces four: the link is full
        for _ in range(4):
            outbox.add(b"x", run_id="r", worker=0, env_steps=1)
        for entry in outbox.due():
            outbox.mark_sent(entry)
            sent.append(entry.seq)
        on_their_way = [seq for seq in sent if (("b", seq) in outbox._entries)]
        for seq in on_their_way[:4]:
            outbox.ack([(seq, seq)])
            shares[seq >= 500] += 1
        clock.now += 0.01
    old, fresh = [seq for seq in sent if seq < 500], [seq for seq in sent if seq >= 500]
    assert old == sorted(old)
    assert fresh == sorted(fresh)
    assert 0.2 < shares[False] / shares.total() < 0.35
    assert FRESH_PLACES / SEND_WINDOW == 0.75


def test_a_backlog_alone_has_all_places_and_so_have_fresh_windows_alone():
    for wait in (0.0, FRESH_S + 1):
        outbox, clock = make_outbox(backlog=0)
        for _ in range(40):
            outbox.add(b"x", run_id="r", worker=0, env_steps=1)
        clock.now += wait
        assert [entry.seq for entry in outbox.due()] == list(range(SEND_WINDOW))


class Link:
    """Sends what is due, and acks what was sent, oldest first."""

    def __init__(self) -> None:
        self.outbox, self.clock = make_outbox(backlog=30)
        self.on_their_way: dict[int, None] = {}

    def add(self) -> None:
        self.outbox.add(b"x", run_id="r", worker=0, env_steps=1)

    def send(self) -> None:
        for entry in self.outbox.due():
            self.outbox.mark_sent(entry)
            self.on_their_way[entry.seq] = None
        assert len(self.on_their_way) <= SEND_WINDOW

    def ack(self) -> None:
        seq = next(iter(self.on_their_way), None)
        if seq is not None:
            del self.on_their_way[seq]
            assert len(self.outbox.ack([(seq, seq)])) == 1

    def wait(self) -> None:
        self.clock.now += 3.0

    def reconnect(self) -> None:
        self.outbox.resend_all()
        self.on_their_way.clear()


@given(st.lists(st.sampled_from(["add", "send", "ack", "wait", "reconnect"]), max_size=200))
def test_the_send_window_holds_and_every_window_leaves_in_the_end(events: list[str]):
    link = Link()
    for event in events:
        getattr(link, event)()
    while len(link.outbox):
        link.send()
        link.ack()
