"""F41: SIGTERM, SIGINT (a second one too) and SIGKILL for each program: how it ends, what it leaves, and who notices.

Means: the real programs, real signals, and all seen from outside: exit codes, the retained status, processes that
are still there, files. Not shown: a stop timeout of systemd, which is a SIGKILL after a SIGTERM.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from fleet_processes import Program, board, learner, read_report

from cloud_learner.checkpoints import StateFolder
from cloud_learner.saved_run import SavedRun
from edgerl.broker import RunningBroker, free_port
from fleet_monitor.collector import Collector
from fleet_monitor.fleet import BoardView
from fleet_protocol.codec import decode, encode
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import Birth, Death, Status
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.topics import FleetTopics

Wait = Callable[..., None]
ASKED = [signal.SIGTERM, signal.SIGINT]
EDGERL = str(Path(sys.executable).with_name("edgerl"))


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    tasks = Path(f"/proc/{pid}/task")
    children = [int(child) for task in tasks.glob("*/children") for child in task.read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


def is_gone(pid: int) -> bool:
    """No such process, or only its exit status waits to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Watcher:
    """Somebody who sees the fleet, and keeps all that board b1's status ever was."""

    def __init__(self, broker: RunningBroker, fleet: str) -> None:
        self.topics = FleetTopics(fleet)
        self.statuses: list[Birth | Death] = []
        self.collector = Collector(broker.address, fleet=fleet, history_path=None)
        heard = Subscription(self.topics.status("b1"), 1, self._hear)
        self.connection = MqttConnection(broker.address, client_id="watcher", subscriptions=[heard])

    def _hear(self, _topic: str, payload: bytes) -> None:
        self.statuses.append(decode(payload, Status))

    def b1(self) -> BoardView | None:
        return next(iter(self.collector.snapshot().boards), None)

    def steps(self) -> int:
        seen = self.b1()
        return sum(run.env_steps for run in seen.telemetry.runs.values()) if seen and seen.telemetry else 0

    def births(self) -> list[Birth]:
        return [status for status in self.statuses if isinstance(status, Birth)]


@pytest.fixture
def watcher(mosquitto: RunningBroker, fleet_name: str) -> Iterator[Watcher]:
    watching = Watcher(mosquitto, fleet_name)
    with watching.collector, watching.connection:
        watching.connection.wait_connected(15)
        yield watching


def end_with(program: Program, *signals: signal.Signals) -> int:
    for number in signals:
        program.process.send_signal(number)
    return program.process.wait(60)


def drafts(folder: Path) -> list[Path]:
    """Files that are only half there."""
    return [path for path in folder.rglob("*") if "draft" in path.name or path.name.endswith("-journal")]


@pytest.mark.parametrize(
    ("signals", "state"),
    [
        ([signal.SIGTERM], "offline"),
        pytest.param([signal.SIGINT], "offline", marks=pytest.mark.thorough),
        ([signal.SIGINT, signal.SIGINT], "offline"),
        pytest.param([signal.SIGTERM, signal.SIGINT, signal.SIGTERM], "offline", marks=pytest.mark.thorough),
        ([signal.SIGKILL], "lost"),
    ],
    ids=str,
)
def test_F41_a_board_ends_as_its_status_says_and_leaves_no_worker(
    signals: list[signal.Signals],
    state: str,
    mosquitto: RunningBroker,
    watcher: Watcher,
    fleet_name: str,
    tmp_path: Path,
    wait_until: Wait,
):
    with learner(tmp_path, mosquitto.address, fleet_name):
        with board(tmp_path, mosquitto.address, fleet_name, "b1", "--workers", "2") as acting:
            wait_until(lambda: watcher.steps() > 500, timeout_s=90, what="a board that acts")
            assert len(acting.children("edge_actor.worker")) == 2
            below = descendants(acting.process.pid)
            assert len(below) == 3  # and the checker
            code = end_with(acting, *signals)
            assert code == (-signal.SIGKILL if state == "lost" else ExitCode.OK)
            wait_until(lambda: all(map(is_gone, below)), timeout_s=60, what="the end of its processes")
        wait_until(
            lambda: (seen := watcher.b1()) is not None and seen.state == state, timeout_s=60, what=f"status {state}"
        )
        last = watcher.statuses[-1]
        assert isinstance(last, Death)
        assert last.session_id == watcher.births()[-1].session_id
        assert not drafts(tmp_path / "boards")
        assert "Traceback" not in acting.said()
        with board(tmp_path, mosquitto.address, fleet_name, "b1") as acting:
            wait_until(
                lambda: (seen := watcher.b1()) is not None and seen.state == "online", timeout_s=60, what="its return"
            )
            # What the broker says late of a session that is over changes nothing: the board announces itself again.
            deaths = watcher.statuses.count(last)
            assert watcher.connection.publish(watcher.topics.status("b1"), encode(last), retain=True)
            wait_until(
                lambda: watcher.statuses.count(last) > deaths and isinstance(watcher.statuses[-1], Birth),
                timeout_s=60,
                what="a new announcement after the old will",
            )
            assert (seen := watcher.b1()) is not None
            assert seen.state == "online"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGKILL], ids=str
)
def test_F41_a_worker_that_is_ended_is_replaced_or_minds_nothing(
    number: signal.Signals,
    mosquitto: RunningBroker,
    watcher: Watcher,
    fleet_name: str,
    tmp_path: Path,
    wait_until: Wait,
):
    with (
        learner(tmp_path, mosquitto.address, fleet_name),
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
    ):
        wait_until(lambda: watcher.steps() > 500, timeout_s=90, what="a board that acts")
        (worker,) = acting.children("edge_actor.worker")
        os.kill(worker, number)
        if number != signal.SIGINT:  # Ctrl-C in a terminal reaches workers too; their supervisor ends them in order
            wait_until(lambda: is_gone(worker), timeout_s=60, what="the worker's end")
        before = watcher.steps()
        wait_until(lambda: watcher.steps() > before + 500, timeout_s=60, what="further steps")
        assert (acting.children("edge_actor.worker") == [worker]) == (number == signal.SIGINT)
        assert "Traceback" not in acting.said()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT] * 3], ids=str)
def test_F41_a_learner_saves_and_reports_when_it_is_told_to_end(
    signals: list[signal.Signals],
    mosquitto: RunningBroker,
    watcher: Watcher,
    fleet_name: str,
    tmp_path: Path,
    wait_until: Wait,
):
    with (
        board(tmp_path, mosquitto.address, fleet_name, "b1"),
        learner(tmp_path, mosquitto.address, fleet_name) as learning,
    ):
        wait_until(lambda: watcher.steps() > 2000, timeout_s=90, what="a run")
        assert end_with(learning, *signals) == ExitCode.INTERRUPTED, learning.said()
        assert "Traceback" not in learning.said()
    saved = SavedRun.load(StateFolder(tmp_path / "state"))
    report = read_report(tmp_path)
    assert saved is not None
    assert saved.progress["env_steps"] == report["env_steps"] > 0
    assert report["trajectories"]["add_up"]
    assert not drafts(tmp_path / "state")


def test_F41_a_learner_that_waits_for_a_board_ends_too(mosquitto: RunningBroker, fleet_name: str, tmp_path: Path):
    for number in ASKED:
        with learner(tmp_path, mosquitto.address, fleet_name) as learning:
            while "waiting for a board" not in learning.said():
                assert learning.process.poll() is None
            assert end_with(learning, number) == ExitCode.INTERRUPTED
            assert "Traceback" not in learning.said()
        learning.log.unlink()


@pytest.mark.parametrize("number", [*ASKED, signal.SIGKILL], ids=str)
def test_F41_a_monitors_file_is_whole_however_it_ends(
    number: signal.Signals,
    mosquitto: RunningBroker,
    watcher: Watcher,
    fleet_name: str,
    tmp_path: Path,
    wait_until: Wait,
):
    file = tmp_path / "fleet.db"
    flags = ("--broker", str(mosquitto.address), "--fleet", fleet_name, "--db", str(file), "--flush-period-s", "0.1")
    with learner(tmp_path, mosquitto.address, fleet_name), board(tmp_path, mosquitto.address, fleet_name, "b1"):
        for _ in range(2):  # the second goes on with what the first has left
            with Program(tmp_path / "monitor.log", "fleet_monitor", *flags) as monitor:
                before = len(monitor.said())
                wait_until(
                    lambda monitor=monitor, before=before: "b1 is online" in monitor.said()[before:],
                    timeout_s=60,
                    what="a monitor that sees the board",
                )
                code = end_with(monitor, number)
                assert code == (-signal.SIGKILL if number == signal.SIGKILL else ExitCode.OK)
                assert "Traceback" not in monitor.said()
            with closing(sqlite3.connect(file)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("number", [*ASKED, signal.SIGKILL], ids=str)
def test_F41_no_broker_outlives_the_program_that_runs_it(number: signal.Signals, tmp_path: Path, wait_until: Wait):
    with (tmp_path / "broker.log").open("wb") as log:
        process = subprocess.Popen([EDGERL, "broker", "run", "--port", str(free_port())], stdout=log, stderr=log)
    try:
        wait_until(lambda: b"Ctrl-C" in (tmp_path / "broker.log").read_bytes(), timeout_s=60, what="a broker")
        below = descendants(process.pid)
        assert below
        process.send_signal(number)
        assert process.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else ExitCode.OK)
        wait_until(lambda: all(map(is_gone, below)), timeout_s=30, what="the broker's end")
        assert b"Traceback" not in (tmp_path / "broker.log").read_bytes()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGKILL]], ids=str)
def test_F41_a_demo_leaves_no_process(signals: list[signal.Signals], tmp_path: Path, wait_until: Wait):
    report = tmp_path / "report.json"
    command = [EDGERL, "demo", "--boards", "2", "--report", str(report), "--target-return", "1000"]
    with (tmp_path / "demo.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}
        )
    try:
        # A broker, a learner, two boards, and a worker and a checker of each.
        wait_until(lambda: len(descendants(process.pid)) >= 8, timeout_s=120, what="the whole demo")
        below = descendants(process.pid)
        for number in signals:
            process.send_signal(number)
        code = process.wait(60)
        wait_until(lambda: all(map(is_gone, below)), timeout_s=60, what="the end of all its processes")
        assert b"Traceback" not in (tmp_path / "demo.log").read_bytes(), (tmp_path / "demo.log").read_text()
        if signals == [signal.SIGKILL]:
            assert code == -signal.SIGKILL
            return
        assert code == ExitCode.INTERRUPTED
        assert not list(tmp_path.glob("edgerl-*"))
        if len(signals) == 1:
            assert json.loads(report.read_text())["trajectories"]["add_up"]
    finally:
        process.kill()
        process.wait()
