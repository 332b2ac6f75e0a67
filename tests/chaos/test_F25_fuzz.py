"""F25: garbage on every topic that anybody hears, through a real broker, while a real fleet learns.

What each program should say of a payload is asked of the libraries beforehand, one payload at a time; then its counters
must be exactly that, for all that comes with QoS 1: no message is lost, none is counted twice, none ends anything.
"""

import ast
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import pytest
from fleet_processes import Program, board, learner, read_report
from mutants import mutated

from cloud_learner.intake import _check_reply
from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.commands import AtRest, Command, CommandReply, Evaluate
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import (
    Ack,
    Death,
    LearnerReport,
    LogLine,
    RunSpec,
    SketchState,
    Status,
    Telemetry,
    TrajectoryMessage,
)
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.signing import FrameRefused, open_frame, seal_frame
from fleet_protocol.soundness import require_sound
from fleet_protocol.topics import FleetTopics

WaitUntil = Callable[..., None]
GROWTH_BYTES: Final = 50e6
CHUNK: Final = 500
STRANGERS: Final = [f"s{number}" for number in range(8)]


@dataclass
class Ledger:
    """What the board, the learner and the monitor should have counted."""

    board: Counter[str] = field(default_factory=Counter[str])
    learner: Counter[str] = field(default_factory=Counter[str])
    monitor: Counter[str] = field(default_factory=Counter[str])


class Stream:
    """Mutants for every topic, and what must become of each."""

    def __init__(self, fleet: str, *, run_id: str, window: bytes, rng: random.Random) -> None:
        self._topics = FleetTopics(fleet)
        self._run_id = run_id
        self._window = window
        self._rng = rng
        self._seq = 0
        self._commands: dict[str, int] = {}
        self.expected = Ledger()
        spec = RunSpec(run_id="r", generation=1, env_id="X", unroll_length=4)
        self._run = seal_frame(encode(spec), kind="run", version=1, run_id="r")
        self._policy = seal_frame(b"\x1c\0\0\0TFL3" + bytes(300), kind="policy", version=3, run_id="r")
        evaluate = encode(Evaluate(policy_version=10**12, episodes=1))
        self._command = seal_frame(evaluate, kind="command", version=1, run_id="r", target="b1", issuer="fuzz")
        self._report = encode(
            LearnerReport(run_id="r", generation=1, env_id="X", state="learning", versions={"all": 3}, heartbeat_s=1.0)
        )
        self._ack = encode(Ack(boot_id="x", finished=[(0, 3), (5, 9)]))
        self._death = encode(Death(board_id="b1", boot_id="x", session_id="s", reason="lost"))
        self._line = encode(LogLine(level="info", at=1.0, text="a line of a board's log"))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """(topic, payload), for ever, one topic after the other."""
        while True:
            yield from (make() for make in self._makers())

    def _makers(self) -> list[Callable[[], tuple[str, bytes]]]:
        return [
            self._to_run,
            self._to_policy,
            self._to_command,
            self._to_ack,
            lambda: self._to_unexpected("candidate"),
            lambda: self._to_unexpected("desired"),
            self._to_learner,
            self._to_status,
            self._from_stranger_trajectory,
            self._from_stranger_telemetry,
            self._from_stranger_reply,
            self._from_stranger_log,
        ]

    # --- what a board hears

    def _to_run(self) -> tuple[str, bytes]:
        payload = mutated(self._run, self._rng)

        def read() -> None:
            header, body = open_frame(payload, kind="run", target="all", unsigned_allowed=True)
            run = decode(body, RunSpec)
            if (header.run_id, header.version) != (run.run_id, run.generation):
                raise FrameRefused("mixed", "")

        self.expected.board[judged("run", read)] += 1
        return self._topics.run, payload

    def _to_policy(self) -> tuple[str, bytes]:
        payload = mutated(self._policy, self._rng)
        read = lambda: open_frame(payload, kind="policy", target="all", unsigned_allowed=True)  # noqa: E731
        self.expected.board[judged("policy", read)] += 1
        return self._topics.policy("all"), payload

    def _to_command(self) -> tuple[str, bytes]:
        payload = mutated(self._command, self._rng)

        def read() -> None:
            header, body = open_frame(payload, kind="command", target="b1", unsigned_allowed=True)
            decode(body, Command)
            if header.version <= self._commands.get(header.issuer, 0):
                raise FrameRefused("replayed", "")
            self._commands[header.issuer] = header.version

        self.expected.board[judged("command", read)] += 1
        return self._topics.down("b1", "command"), payload

    def _to_ack(self) -> tuple[str, bytes]:
        payload = mutated(self._ack, self._rng)
        self.expected.board[judged("ack", lambda: decode(payload, Ack))] += 1
        return self._topics.down("b1", "ack"), payload

    def _to_unexpected(self, kind: str) -> tuple[str, bytes]:
        self.expected.board[f"{kind}_unexpected"] += 1
        return self._topics.down("b1", kind), mutated(self._command, self._rng)  # pyright: ignore[reportArgumentType]

    # --- what several hear

    def _to_learner(self) -> tuple[str, bytes]:
        payload = mutated(self._report, self._rng)
        verdict = judged("learner", lambda: decode(payload, LearnerReport))
        self.expected.board[verdict] += 1
        self.expected.monitor[verdict] += 1
        return self._topics.learner, payload

    def _to_status(self) -> tuple[str, bytes]:
        payload = mutated(self._death, self._rng)
        self.expected.board[judged("status", lambda: decode(payload, Status))] += 1
        of_b1 = judged("status", lambda: require_sender(decode(payload, Status), "b1"))
        self.expected.monitor[of_b1] += 1
        self.expected.learner["decode_errors"] += bool(of_b1)
        return self._topics.status("b1"), payload

    # --- what comes from boards

    def _from_stranger_trajectory(self) -> tuple[str, bytes]:
        self._seq += 1
        stranger = self._rng.choice(STRANGERS)
        body = mutated(self._window, self._rng) if self._rng.random() < 0.5 else self._window
        message = TrajectoryMessage(
            run_id=self._run_id, board_id=stranger, boot_id="x", seq=self._seq, oldest_seq=0, body=body
        )
        payload = encode(message)
        payload = payload if body is not self._window else mutated(payload, self._rng)
        try:
            read = decode(payload, TrajectoryMessage)
            require_sender(read, stranger)
            self.expected.learner["other_run" if read.run_id != self._run_id else "received"] += 1
        except BadMessage:
            self.expected.learner["decode_errors"] += 1
        return self._topics.up(stranger, "trajectory"), payload

    def _from_stranger_telemetry(self) -> tuple[str, bytes]:
        stranger = self._rng.choice(STRANGERS)
        sketch = SketchState(count=2, total=3.0, minimum=1.0, maximum=2.0, indices=[0, 35], counts=[1, 1])
        telemetry = Telemetry(
            board_id=stranger, boot_id="x", uptime_s=1.0, sketches={"step_us": sketch}, counters={"a": 1}
        )
        payload = mutated(encode(telemetry), self._rng)

        def read() -> None:
            told = decode(payload, Telemetry)
            require_sender(told, stranger)
            require_sound(told)

        verdict = judged("telemetry", read)
        self.expected.monitor[verdict] += 1
        self.expected.learner["decode_errors"] += bool(verdict)
        return self._topics.up(stranger, "telemetry"), payload

    def _from_stranger_reply(self) -> tuple[str, bytes]:
        stranger = self._rng.choice(STRANGERS)
        at_rest = AtRest(run_id="r", produced=[(0, 9)], outbox=[], dropped={"stale": [(2, 3)]})
        reply = CommandReply(board_id=stranger, boot_id="x", issuer="learner", counter=1, result=at_rest)
        payload = mutated(encode(reply), self._rng)

        def read() -> None:
            told = decode(payload, CommandReply)
            require_sender(told, stranger)
            _check_reply(told)

        self.expected.learner["decode_errors"] += bool(judged("reply", read))
        return self._topics.up(stranger, "reply"), payload

    def _from_stranger_log(self) -> tuple[str, bytes]:
        payload = mutated(self._line, self._rng)
        self.expected.monitor[judged("log", lambda: decode(payload, LogLine))] += 1
        return self._topics.up(self._rng.choice(STRANGERS), "log"), payload


def judged(topic: str, read: Callable[[], object]) -> str:
    """The counter under which a payload is refused; empty where it is not."""
    try:
        read()
    except BadMessage:
        return f"{topic}_undecodable"
    except FrameRefused as error:
        return f"{topic}_{error.reason}"
    return ""


def require_sender(message: TrajectoryMessage | Telemetry | CommandReply | Status, board_id: str) -> None:
    if message.board_id != board_id:
        raise BadMessage("of another board")


def rss(*programs: Program) -> list[int]:
    """Bytes of each program; of a board, its workers are part."""
    return [
        sum(process.memory_info().rss for process in (tree, *tree.children(recursive=True)))
        for tree in (psutil.Process(program.process.pid) for program in programs)
    ]


def seen_of(collector: Collector) -> Telemetry | None:
    boards = collector.snapshot().boards
    return next((seen.telemetry for seen in boards if seen.board_id == "b1"), None)


def steps_of(collector: Collector) -> int:
    seen = seen_of(collector)
    return sum(run.env_steps for run in seen.runs.values()) if seen else 0


def without_luck(counters: Counter[str], *at_most_once: str) -> dict[str, int]:
    """The counters of what comes with QoS 1, but for what was not refused."""
    return {name: count for name, count in counters.items() if name and not name.startswith(at_most_once)}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [12_000, pytest.param(100_000, marks=pytest.mark.thorough)])
def test_F25_garbage_on_every_topic_is_counted_message_by_message_and_learning_goes_on(
    count: int, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    topics, windows = FleetTopics(fleet_name), list[bytes]()
    listen = Subscription(topics.up("b1", "trajectory"), 0, lambda _topic, payload: windows.append(payload))
    monitor_flags = ("--broker", str(mosquitto.address), "--fleet", fleet_name, "--db", str(tmp_path / "fleet.db"))
    with (
        MqttConnection(mosquitto.address, client_id="stranger", subscriptions=[listen]) as stranger,
        Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector,
        Program(tmp_path / "monitor.log", "fleet_monitor", *monitor_flags) as monitor,
        learner(tmp_path, mosquitto.address, fleet_name) as learning,
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
    ):
        programs = (monitor, learning, acting)
        wait_until(lambda: steps_of(collector) > 5000, timeout_s=90, what="the first steps")
        wait_until(lambda: "recording" in monitor.said(), timeout_s=60, what="the monitor")
        message = decode(windows[0], TrajectoryMessage)
        stream = Stream(fleet_name, run_id=message.run_id, window=message.body, rng=random.Random(25))
        warm: list[int] = []
        for number, (topic, payload) in zip(range(count), stream, strict=False):
            assert stranger.publish(topic, payload)
            if number % CHUNK == CHUNK - 1:
                windows.clear()
                assert stranger.flush(60)
            if number == count // 10:
                warm = rss(*programs)
        assert stranger.flush(60)
        expected = stream.expected
        of_board = without_luck(expected.board, "policy")
        wait_until(
            lambda: (
                (seen := seen_of(collector)) and {name: seen.counters.get(name, 0) for name in of_board} == of_board
            ),
            timeout_s=120,
            what=f"{of_board} on the board",
        )
        before = steps_of(collector)
        wait_until(lambda: steps_of(collector) > before + 5000, timeout_s=90, what="steps after all that")
        grown = [after - first for after, first in zip(rss(*programs), warm, strict=True)]
        counters = Counter((seen_of(collector) or Telemetry(board_id="b", boot_id="b", uptime_s=0)).counters)
        assert counters["worker_restarts"] == 0
        assert all(program.process.poll() is None for program in programs)
        for program in programs[:2]:
            program.process.terminate()
            assert program.process.wait(60) in (ExitCode.OK, ExitCode.INTERRUPTED), program.said()
    assert max(grown) < GROWTH_BYTES, grown
    check_once(expected.board, counters, "policy")
    ignored = read_report(tmp_path)["ignored"]
    assert ignored["decode_errors"] == expected.learner["decode_errors"]
    assert ignored.get("other_run", 0) == expected.learner["other_run"]
    assert "overrun" not in ignored
    assert read_report(tmp_path)["trajectories"]["add_up"]
    (said,) = re.findall(r"ignored messages (\{.*\})", monitor.said().splitlines()[-1])
    of_monitor = Counter(ast.literal_eval(said))
    assert without_luck(of_monitor, "telemetry", "log") == without_luck(expected.monitor, "telemetry", "log")
    check_once(expected.monitor, of_monitor, "telemetry", "log")
    for program in programs:
        assert "Traceback" not in program.said()
        assert len(program.said()) < 100_000  # a stranger's words do not fill a log


def check_once(expected: Counter[str], counted: Counter[str], *kinds: str) -> None:
    """What comes with QoS 0 may be lost on its way, and is never counted twice."""
    names = [name for name in expected if name.startswith(kinds)]
    assert sum(counted[name] for name in names) > 0
    assert all(counted[name] <= expected[name] for name in names)
