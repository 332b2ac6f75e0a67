"""The monitor over a real broker: what boards publish stands in SQLite, and what makes no sense stops nothing."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fleet_processes import Program

from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_monitor.fleet import BoardView
from fleet_monitor.listing import list_boards, show_board
from fleet_protocol.codec import encode
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Birth, Death, Health, LearnerReport, LogLine, Message, RunCounters, Telemetry
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.sketch import LatencySketch
from fleet_protocol.topics import FleetTopics

WaitUntil = Callable[..., None]
BIRTH = Birth(board_id="b1", boot_id="boot-1", session_id="session-1", software="edgerl 0.1")
REPORT = LearnerReport(
    run_id="run-1", generation=1, env_id="CartPole-v1", state="learning", versions={"all": 3}, heartbeat_s=1.0
)


class Publisher:
    """Speaks for the boards and the learner of a fleet."""

    def __init__(self, connection: MqttConnection, topics: FleetTopics) -> None:
        self._connection = connection
        self.topics = topics

    def say(self, topic: str, message: Message | bytes, *, retain: bool = False) -> None:
        payload = message if isinstance(message, bytes) else encode(message)
        assert self._connection.publish(topic, payload, retain=retain)

    def say_telemetry(self, *, uptime_s: float, latencies_us: list[float]) -> None:
        sketch = LatencySketch()
        sketch.add_many(latencies_us)
        telemetry = Telemetry(
            board_id="b1",
            boot_id="boot-1",
            uptime_s=uptime_s,
            run_id="run-1",
            policy_version=7,
            runs={"run-1": RunCounters(produced=3, acked=3, env_steps=len(latencies_us))},
            sketches={"inference_us": sketch.to_state()},
            health=Health(temperature_c=40.0 + uptime_s, throttled=0x50001),
        )
        self.say(self.topics.up("b1", "telemetry"), telemetry)


@pytest.fixture
def publisher(any_broker: RunningBroker, fleet_name: str) -> Iterator[Publisher]:
    with MqttConnection(any_broker.address, client_id=f"publisher-{fleet_name}", subscriptions=[]) as connection:
        connection.wait_connected(10)
        yield Publisher(connection, FleetTopics(fleet_name))


def board_of(collector: Collector) -> BoardView | None:
    return next(iter(collector.snapshot().boards), None)


def state_of(collector: Collector) -> str | None:
    board = board_of(collector)
    return board.state if board else None


def test_what_a_board_reports_stands_in_the_file(
    any_broker: RunningBroker, publisher: Publisher, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    topics, file = publisher.topics, tmp_path / "fleet.db"
    publisher.say(topics.status("b1"), BIRTH, retain=True)
    publisher.say(topics.learner, REPORT, retain=True)
    with Collector(any_broker.address, fleet=fleet_name, history_path=file, flush_period_s=0.1) as collector:
        wait_until(lambda: state_of(collector) == "online", what="the retained birth")
        wait_until(lambda: collector.snapshot().learner == REPORT, what="the retained report")
        wait_until(lambda: list_boards(file), what="the first flush")
        publisher.say_telemetry(uptime_s=0.0, latencies_us=[10.0] * 100)
        wait_until(lambda: len(show_board(file, "b1").latencies) == 1, what="the first interval")
        publisher.say_telemetry(uptime_s=2.0, latencies_us=[10.0] * 100 + [50.0] * 60)
        wait_until(lambda: len(show_board(file, "b1").latencies) == 2, what="the second interval")
        publisher.say(topics.up("b1", "log"), LogLine(level="warning", at=0.0, text="hot"))
        wait_until(lambda: (board := board_of(collector)) and board.log, what="the log line")
    detail = show_board(file, "b1")
    assert (detail.board.policy_version, detail.board.env_steps, detail.board.steps_per_s) == (7, 160, 30.0)
    assert detail.board.conditions[0] == "under-voltage now"
    assert [row.temperature_c for row in detail.health] == [42.0, 40.0]
    newest, oldest = detail.latencies
    assert (newest.count, oldest.count) == (60, 100)
    assert newest.p50 == pytest.approx(50.0, rel=0.011)
    assert oldest.p99 == pytest.approx(10.0, rel=0.011)


def test_a_board_dies_once_and_not_by_a_late_will(
    any_broker: RunningBroker, publisher: Publisher, fleet_name: str, wait_until: WaitUntil
):
    late = Death(board_id="b1", boot_id="boot-0", session_id="session-0", reason="lost")
    own = Death(board_id="b1", boot_id="boot-1", session_id="session-1", reason="lost")
    publisher.say(publisher.topics.status("b1"), BIRTH, retain=True)
    with Collector(any_broker.address, fleet=fleet_name, history_path=None) as collector:
        wait_until(lambda: state_of(collector) == "online", what="the retained birth")
        publisher.say(publisher.topics.status("b1"), late)
        publisher.say(publisher.topics.learner, REPORT)
        wait_until(lambda: collector.snapshot().learner, what="what was said after the late will")
        assert state_of(collector) == "online"
        publisher.say(publisher.topics.status("b1"), own)
        wait_until(lambda: state_of(collector) == "lost", what="the death")


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x81\xa1x\x01", b"\xdd\xff\xff\xff\xff", b"\x00" * 1_000_000])
def test_garbage_on_every_topic_is_counted_and_survived(
    any_broker: RunningBroker,
    publisher: Publisher,
    fleet_name: str,
    garbage: bytes,
    tmp_path: Path,
    wait_until: WaitUntil,
):
    topics, file = publisher.topics, tmp_path / "fleet.db"
    kinds = {
        "learner": topics.learner,
        "status": topics.status("b1"),
        "telemetry": topics.up("b1", "telemetry"),
        "log": topics.up("b1", "log"),
    }
    publisher.say(topics.status("b1"), BIRTH, retain=True)
    with Collector(any_broker.address, fleet=fleet_name, history_path=file, flush_period_s=0.1) as collector:
        wait_until(lambda: state_of(collector) == "online", what="the retained birth")
        for topic in kinds.values():
            publisher.say(topic, garbage)
        publisher.say_telemetry(uptime_s=0.0, latencies_us=[10.0])
        wait_until(lambda: [board.policy_version for board in list_boards(file)] == [7], what="what came after it")
        assert collector.snapshot().ignored == {f"{kind}_undecodable": 1 for kind in kinds}


def test_a_file_that_fails_is_told_to_whoever_looks(
    any_broker: RunningBroker, publisher: Publisher, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    file = tmp_path / "fleet.db"

    def told(collector: Collector) -> bool:
        try:
            collector.snapshot()
        except ProgramError as error:
            return error.exit_code == ExitCode.STATE_UNUSABLE
        return False

    collector = Collector(any_broker.address, fleet=fleet_name, history_path=file, flush_period_s=0.1).__enter__()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DROP TABLE board")
    publisher.say(publisher.topics.status("b1"), BIRTH, retain=True)
    wait_until(lambda: told(collector), what="the failure")
    with pytest.raises(ProgramError, match="no such table"):
        collector.__exit__(None)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_program_records_until_it_is_told_to_end(
    any_broker: RunningBroker,
    publisher: Publisher,
    fleet_name: str,
    ending: signal.Signals,
    tmp_path: Path,
    wait_until: WaitUntil,
):
    file = tmp_path / "fleet.db"
    flags = ("--broker", str(any_broker.address), "--fleet", fleet_name, "--db", str(file))
    publisher.say(publisher.topics.status("b1"), BIRTH, retain=True)
    with Program(tmp_path / "monitor.log", "fleet_monitor", *flags) as monitor:
        wait_until(lambda: "recording fleet" in monitor.said(), timeout_s=20, what="its first line")
        wait_until(lambda: "b1 is online" in monitor.said(), what="the line about b1")
        monitor.process.send_signal(ending)
        assert monitor.process.wait(10) == ExitCode.OK
        assert "Traceback" not in monitor.said()
    assert [board.board_id for board in list_boards(file)] == ["b1"]


@pytest.mark.parametrize(
    ("flags", "exit_code"),
    [
        (["--broker", "192.0.2.1:1883"], ExitCode.ADDRESS_REFUSED),
        (["--fleet", "a/b"], ExitCode.USAGE),
        (["--flush-period-s", "0"], ExitCode.CONFIG),
        (["--db", "/dev/null/fleet.db"], ExitCode.STATE_UNUSABLE),
    ],
    ids=["address", "fleet", "setting", "file"],
)
def test_what_a_person_can_put_right_is_one_line(flags: list[str], exit_code: ExitCode, tmp_path: Path):
    command = [sys.executable, "-m", "fleet_monitor", "--db", str(tmp_path / "fleet.db"), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == exit_code
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("edgerl monitor: ")
