"""The outbox against a model that keeps one word for each window, through all that boards live through."""

import random
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge_actor.outbox import Outbox
from edge_actor.send_schedule import FRESH_S

MAX_BYTES = 60
SEND_WINDOW = 16
RUNS = st.sampled_from(["r", "s"])


@dataclass
class Window:
    run_id: str
    size: int
    produced_at: float
    where: str = "outbox"
    env_steps: int = field(default=4)


class OutboxAgainstModel(RuleBasedStateMachine):
    """`where` of every window is "outbox", "acked", or the reason of its drop."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.outbox = Outbox(max_bytes=MAX_BYTES, clock=lambda: self.now, rng=random.Random(0))
        self.windows: list[Window] = []
        self.displaced: list[int] = []

    def displace(self, seq: int) -> None:
        self.windows[seq].where = "outbox_full"
        self.displaced.append(seq)

    def held(self) -> list[int]:
        return [seq for seq, window in enumerate(self.windows) if window.where == "outbox"]

    def lanes(self) -> tuple[list[int], list[int]]:
        fresh = [seq for seq in self.held() if self.now - self.windows[seq].produced_at <= FRESH_S]
        return [seq for seq in self.held() if seq not in fresh], fresh

    @rule(run_id=RUNS, size=st.integers(1, 20), count=st.integers(1, 12))
    def add(self, run_id: str, size: int, count: int):
        for _ in range(count):
            entry = self.outbox.add(b"x" * size, run_id=run_id, worker=3, env_steps=4)
            assert entry.seq == len(self.windows)
            self.windows.append(Window(run_id, size, self.now))
            while sum(self.windows[seq].size for seq in self.held()) > MAX_BYTES:
                self.displace(self.held()[0])

    @rule(run_id=RUNS, size=st.integers(MAX_BYTES + 1, 2 * MAX_BYTES))
    def add_one_that_never_fits(self, run_id: str, size: int):
        self.outbox.add(b"x" * size, run_id=run_id, worker=3, env_steps=4)
        self.windows.append(Window(run_id, size, self.now))
        for seq in self.held():
            self.displace(seq)

    @rule(first=st.integers(0, 60), length=st.integers(0, 8), again=st.booleans())
    def ack(self, first: int, length: int, again: bool):
        leaving = [seq for seq in self.held() if first <= seq <= first + length]
        finished = [(first, first + length), (10_000, 2**62)] + [(first, first)] * again
        assert [entry.seq for entry in self.outbox.ack(finished)] == leaving
        for window in self.windows[first : first + length + 1]:
            window.where = "acked"

    @rule(run_id=RUNS, max_age_s=st.integers(0, 30))
    def drop_stale(self, run_id: str, max_age_s: int):
        expected, self.displaced = self.displaced, []
        for seq in self.held():
            window = self.windows[seq]
            if window.run_id != run_id or self.now - window.produced_at > max_age_s:
                window.where = "other_run" if window.run_id != run_id else "stale"
                expected.append(seq)
        assert [entry.seq for entry in self.outbox.drop_stale(run_id=run_id, max_age_s=max_age_s)] == expected

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int):
        self.now += seconds

    @rule()
    def send_what_is_due(self):
        for entry in self.outbox.due():
            self.outbox.mark_sent(entry)
            assert entry.next_send_at > self.now
        assert self.outbox.due() == []

    @rule()
    def reconnect(self):
        self.outbox.resend_all()
        due = [entry.seq for entry in self.outbox.due()]
        assert len(due) == min(SEND_WINDOW, len(self.held()))
        for lane in self.lanes():  # the oldest of each first
            sent = [seq for seq in due if seq in lane]
            assert sent == lane[: len(sent)]

    @invariant()
    def every_window_is_where_the_model_says(self):
        for run_id, counters in self.outbox.counters().items():
            windows = {seq: w for seq, w in enumerate(self.windows) if w.run_id == run_id}
            where = Counter(window.where for window in windows.values())
            assert (counters.produced, counters.in_outbox, counters.acked) == (
                len(windows),
                where.pop("outbox", 0),
                where.pop("acked", 0),
            )
            assert Counter(counters.dropped) == where
            assert counters.produced == counters.acked + sum(counters.dropped.values()) + counters.in_outbox
            assert counters.env_steps == 4 * len(windows)
            rest = self.outbox.at_rest(run_id)
            assert spelled_out(rest.produced) == sorted(windows)
            assert spelled_out(rest.outbox) == [seq for seq in self.held() if seq in windows]
            for reason, ranges in rest.dropped.items():
                assert spelled_out(ranges) == [seq for seq, window in windows.items() if window.where == reason]

    @invariant()
    def the_send_window_and_the_size_are_bounded(self):
        held = self.held()
        assert len(self.outbox) == len(held)
        assert self.outbox.bytes == sum(self.windows[seq].size for seq in held) <= MAX_BYTES
        assert self.outbox.oldest_seq == (held[0] if held else len(self.windows))
        due = self.outbox.due()
        for lane in self.lanes():
            waiting = [entry.seq for entry in due if entry.sends == 0 and entry.seq in lane]
            assert waiting == sorted(waiting)
        on_their_way = sum(entry.sends > 0 for entry in self.outbox._entries.values())
        assert on_their_way + sum(entry.sends == 0 for entry in due) <= SEND_WINDOW


def spelled_out(ranges: list[tuple[int, int]]) -> list[int]:
    return [seq for first, last in ranges for seq in range(first, last + 1)]


TestOutboxAgainstModel = OutboxAgainstModel.TestCase
TestOutboxAgainstModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
