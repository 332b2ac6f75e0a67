"""F2: a power cut leaves what was synced, and of the rest any part; every program starts from whatever it finds.

Means: a shim under the real programs writes down every change of their disks (`faulty_machine.py`). From that journal
come the disks that a cut at one moment could have left (`power_cut.py`), and on each of them a real program is started.
Not shown: a card that loses what it has acknowledged, or damages what nobody was writing (F27 damages the outbox).
"""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from faulty_machine import FaultyMachine
from fleet_processes import Program, board, learner, read_report
from power_cut import SYNC, Change, Cut, Disk, read_journal

from cloud_learner.checkpoints import StateFolder
from cloud_learner.saved_run import SavedRun
from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_protocol.codec import decode
from fleet_protocol.messages import Frame, FrameHeader, LearnerReport, Telemetry

CLOCKED = (
    *("--control-hz", "100", "--unroll-length", "8"),  # a robot: it never waits, 12 windows a second
    *("--max-age-s", "6000", "--max-policy-lag", "100000", "--checkpoint-every-s", "0.5"),
)
KEEPING = ("--spill-after-s", "0.5", "--keep-policy-every-s", "0.5", "--seed", "1")


def telemetry_of(collector: Collector, name: str) -> Telemetry | None:
    return next((board.telemetry for board in collector.snapshot().boards if board.board_id == name), None)


def counter(collector: Collector, name: str, counter: str) -> int:
    seen = telemetry_of(collector, name)
    return seen.counters.get(counter, 0) if seen else 0


def steps(collector: Collector, name: str) -> int:
    seen = telemetry_of(collector, name)
    return sum(run.env_steps for run in seen.runs.values()) if seen else 0


def moments(changes: Sequence[Change]) -> list[int]:
    """After each kind of change of each file, the first time and the last: where a cut may hurt."""
    last = {(change.kind, Path(change.path).name): number for number, change in enumerate(changes, 1)}
    first = {(change.kind, Path(change.path).name): number for number, change in reversed([*enumerate(changes, 1)])}
    return sorted({*first.values(), *last.values()})


def left_by(changes: Sequence[Change], root: Path, moment: int, cut: Cut, target: Path) -> Path:
    disk = Disk(root)
    for change in changes[:moment]:
        disk.apply(change)
    disk.leave(cut, target, seed=moment)
    return target


def synced_windows(changes: Sequence[Change], root: Path, moment: int, copy: Path) -> int:
    """Windows that stood in the outbox at its last sync before a moment: none of them may be lost."""
    logs = [n for n, change in enumerate(changes[:moment], 1) if change.kind == SYNC and change.path.endswith("-wal")]
    if not logs:
        return 0
    left_by(changes, root, logs[-1], Cut.KILL, copy)
    with closing(sqlite3.connect(copy / "b1/outbox.db")) as connection:
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'window'").fetchone()[0]
        return connection.execute("SELECT count(*) FROM window").fetchone()[0] if tables else 0


def kept_version(folder: Path) -> int:
    """The version of the policy that a board has on its disk, under either name; 0 for none."""
    for file in (folder / "policy.frame", folder / "policy.before.frame"):
        if file.is_file():
            return decode(decode(file.read_bytes(), Frame).header, FrameHeader).version
    return 0


@pytest.fixture
def record(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
) -> tuple[list[Change], Path, int]:
    """A board's disk until long after it lost its learner: changes, the folder, windows that were said to be safe."""
    (root := tmp_path / "boards").mkdir()
    machine = FaultyMachine(tmp_path / "machine", root)
    with (
        Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector,
        board(tmp_path, mosquitto.address, fleet_name, "b1", *KEEPING, python=machine.python) as acting,
    ):
        with learner(tmp_path, mosquitto.address, fleet_name, *CLOCKED) as learning:
            wait_until((root / "b1/policy.frame").exists, timeout_s=90, what="a policy on the disk")
            first = kept_version(root / "b1")
            wait_until(lambda: kept_version(root / "b1") > first + 1, timeout_s=60, what="a newer one")
            learning.kill()
        wait_until(lambda: counter(collector, "b1", "windows_spilled") > 40, timeout_s=60, what="windows on the disk")
        said_safe = counter(collector, "b1", "windows_spilled")
        acting.kill()
    return read_journal(machine.journal()), root, said_safe


@pytest.mark.thorough
def test_F2_a_board_acts_after_a_cut_at_any_moment_and_has_all_that_was_synced(
    record: tuple[list[Change], Path, int],
    mosquitto: RunningBroker,
    fleet_name: str,
    tmp_path: Path,
    wait_until: Callable[..., None],
):
    changes, root, said_safe = record
    cuts = [(moment, [*Cut][number % len(Cut)]) for number, moment in enumerate(moments(changes)[:-1])]
    cuts += [(len(changes), cut) for cut in Cut]
    for begin in range(0, len(cuts), 4):  # four side by side: most of a start is waiting
        with ExitStack() as stack:
            for case in [Start(*cut, changes, root, tmp_path, fleet_name) for cut in cuts[begin : begin + 4]]:
                collector = Collector(mosquitto.address, fleet=case.fleet, history_path=None)
                case.collector = stack.enter_context(collector)
                case.acting = stack.enter_context(board(case.folder, mosquitto.address, case.fleet, "b1", *KEEPING))
                stack.callback(case.check, wait_until, said_safe if case.moment == len(changes) else 0)


class Start:
    """A board's first minute after a cut."""

    collector: Collector
    acting: Program

    def __init__(self, moment: int, cut: Cut, changes: Sequence[Change], root: Path, place: Path, fleet: str) -> None:
        self.moment, self.what = moment, f"a board after {cut} at change {moment} of {len(changes)}"
        self.folder, self.fleet = place / f"{moment} {cut.name}", f"{fleet}-{moment}-{cut.name}"
        left = left_by(changes, root, moment, cut, self.folder / "boards")
        self.synced = synced_windows(changes, root, moment, self.folder / "copy")
        self.version = kept_version(left / "b1") if (left / "b1/run.frame").is_file() else 0

    def check(self, wait_until: Callable[..., None], said_safe: int) -> None:
        wait_until(
            lambda: steps(self.collector, "b1") > 20 if self.version else telemetry_of(self.collector, "b1"),
            timeout_s=90,
            what=self.what,
        )
        seen = telemetry_of(self.collector, "b1")
        assert seen is not None
        assert seen.policy_version == self.version
        assert self.version or not said_safe  # with the whole journal there is a policy
        assert seen.counters.get("outbox_recovered", 0) >= max(self.synced, said_safe), self.what
        assert {"state_unreadable", "outbox_corrupt", "spill_failed"}.isdisjoint(seen.counters), self.acting.said()
        assert "Traceback" not in self.acting.said()


def test_F2_what_was_on_a_boards_disk_at_the_cut_is_learned_once(
    record: tuple[list[Change], Path, int],
    mosquitto: RunningBroker,
    fleet_name: str,
    tmp_path: Path,
    wait_until: Callable[..., None],
):
    changes, root, said_safe = record
    left_by(changes, root, len(changes), Cut.SOME_SECTORS, tmp_path / "after/boards")
    with (
        Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector,
        learner(tmp_path, mosquitto.address, fleet_name, *CLOCKED) as learning,
        board(tmp_path / "after", mosquitto.address, fleet_name, "b1", *KEEPING),
    ):
        wait_until(
            lambda: 0 < counter(collector, "b1", "outbox_recovered") == counter(collector, "b1", "recovered_acked"),
            timeout_s=120,
            what="the acks of what was on the disk",
        )
        assert counter(collector, "b1", "outbox_recovered") >= said_safe
        learning.process.terminate()
        learning.process.wait(60)
    assert read_report(tmp_path)["trajectories"]["add_up"]


@pytest.mark.thorough
def test_F2_a_learner_resumes_its_run_and_gives_no_version_twice(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    (root := tmp_path / "state").mkdir()
    machine = FaultyMachine(tmp_path / "machine", root)

    def heard(collector: Collector) -> LearnerReport | None:
        return collector.snapshot().learner

    def given(collector: Collector) -> int:
        seen = telemetry_of(collector, "b1")
        return seen.highest_version_seen if seen else 0

    def leading(folder: Path, fleet: str, state: Path, python: str | Path = sys.executable) -> Program:
        folder.mkdir(parents=True, exist_ok=True)
        where = ("--broker", str(mosquitto.address), "--fleet", fleet, "--state", str(state))
        return Program(
            folder / "learner.log", "cloud_learner", *where, *CLOCKED, "--checkpoint-every-s", "3", python=python
        )

    with (
        Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector,
        board(tmp_path, mosquitto.address, fleet_name, "b1"),
        leading(tmp_path, fleet_name, root, machine.python) as learning,
    ):
        wait_until((root / "checkpoint.pt").exists, timeout_s=90, what="a checkpoint")
        wait_until(lambda: given(collector), timeout_s=60, what="a policy on the board")
        first = given(collector)
        wait_until(lambda: given(collector) > first + 3, timeout_s=60, what="policies after the checkpoint")
        learning.kill()
        highest, told = given(collector), heard(collector)
    assert told is not None
    changes = [change for change in read_journal(machine.journal()) if ".writable" not in change.path]
    for number, moment in enumerate(moments(changes)):
        cut = [*Cut][number % len(Cut)]
        case, fleet = tmp_path / f"{moment} {cut.name}", f"{fleet_name}-{number}"
        left = left_by(changes, root, moment, cut, case / "state")
        saved = SavedRun.load(StateFolder(left))
        # A fleet of another name, so that nothing which the broker has kept can help.
        with (
            Collector(mosquitto.address, fleet=fleet, history_path=None) as collector,
            leading(case, fleet, left) as learning,
        ):
            wait_until(
                lambda collector=collector, saved=saved: (
                    (seen := heard(collector)) is not None
                    and (not saved or max(seen.versions.values()) > saved.version)
                ),
                timeout_s=90,
                what=f"a learner after {cut} at change {moment} of {len(changes)}",
            )
            seen = heard(collector)
            assert seen is not None
            assert "Traceback" not in learning.said()
        if saved is not None:
            assert seen.run_id == told.run_id
            assert seen.env_steps == saved.progress["env_steps"]
        if moment == len(changes):
            assert saved is not None
            assert max(seen.versions.values()) > highest


@pytest.mark.thorough
def test_F2_a_monitors_file_is_whole_and_goes_on(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    (root := tmp_path / "monitor").mkdir()
    machine = FaultyMachine(tmp_path / "machine", root)

    def watching(database: Path, python: str | Path = sys.executable) -> Program:
        where = ("--broker", str(mosquitto.address), "--fleet", fleet_name, "--db", str(database))
        return Program(tmp_path / "monitor.log", "fleet_monitor", *where, "--flush-period-s", "0.1", python=python)

    with (
        learner(tmp_path, mosquitto.address, fleet_name),
        board(tmp_path, mosquitto.address, fleet_name, "b1"),
        watching(root / "fleet.db", machine.python) as monitor,
    ):
        wait_until(lambda: recorded(root / "fleet.db", "latency") > 100, timeout_s=90, what="some history")
        monitor.kill()
        changes = read_journal(machine.journal())
        for number, moment in enumerate(moments(changes)):
            cut = [*Cut][number % len(Cut)]
            left = left_by(changes, root, moment, cut, tmp_path / f"{number}")
            before = recorded(left / "fleet.db", "latency")
            with watching(left / "fleet.db"):
                wait_until(
                    lambda left=left, before=before: recorded(left / "fleet.db", "latency") > before,
                    timeout_s=60,
                    what=f"a monitor that records after {cut} at change {moment} of {len(changes)}",
                )
            with closing(sqlite3.connect(left / "fleet.db")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    told = [
        Path(sys.executable).with_name("edgerl"),
        "fleet",
        "list",
        "--db",
        str(left / "fleet.db"),
        "--format",
        "json",
    ]
    assert [row["board_id"] for row in json.loads(subprocess.check_output(told))] == ["b1"]


def recorded(database: Path, table: str) -> int:
    """Rows of a table; 0 where there is none yet."""
    if not database.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - a name of ours
    except sqlite3.OperationalError:
        return 0
