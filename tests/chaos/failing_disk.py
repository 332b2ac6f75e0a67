"""What F3 (full) and F4 (read-only) have in common: a disk refuses changes, in mid-run and at each, and recovers.

A board, a learner and a monitor each live on a machine whose disk a test can spoil (`faulty_machine.py`). What a
program does then is seen from outside: in its telemetry, heartbeat, log, and what its next start makes of the disk.
"""

import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, Self

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from faulty_machine import FaultyMachine
from fleet_processes import Program, read_report

from cloud_learner.checkpoints import StateFolder
from cloud_learner.saved_run import SavedRun
from edgerl.broker import RunningBroker
from fleet_manager.key_folder import KeyFolder
from fleet_monitor.collector import Collector
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import LearnerReport, Telemetry

Wait = Callable[..., None]

CLOCKED: Final = (
    *("--control-hz", "100", "--unroll-length", "8"),  # a robot: it never waits, 12 windows a second
    *("--max-age-s", "6000", "--max-policy-lag", "100000", "--checkpoint-every-s", "0.5", "--evaluation-episodes", "0"),
)
KEEPING: Final = ("--spill-after-s", "0.5", "--keep-policy-every-s", "0.5", "--telemetry-period-s", "0.3")
_UNSOUND: Final = frozenset({"state_unreadable", "outbox_corrupt"})


class SpoiledFleet:
    """A fleet with keys whose programs can each live on a machine of their own; a context manager.

    Args:
        broker: Where they meet.
        name: Of the fleet.
        folder: For keys, states and logs.
        wait_until: The test's fixture.
    """

    def __init__(self, broker: RunningBroker, name: str, folder: Path, wait_until: Wait) -> None:
        self.folder, self.wait_until = folder, wait_until
        self._where = ("--broker", str(broker.address), "--fleet", name)
        self._keys = folder / "keys"
        KeyFolder(self._keys).init(fleet=name, days=30.0)
        self.collector = Collector(broker.address, fleet=name, history_path=None)

    def __enter__(self) -> Self:
        self.collector.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.collector.__exit__(None, *error[1:])

    def machine(self, name: str) -> FaultyMachine:
        """A machine whose disk is the folder of this name."""
        (self.folder / name).mkdir(exist_ok=True)
        return FaultyMachine(self.folder / f"machine of {name}", self.folder / name)

    def board(self, name: str, python: str | Path = sys.executable) -> Program:
        state = ("--board", name, "--state", str(self.folder / name), "--root-key", str(self._keys / "root.pub"))
        return Program(self.folder / f"{name}.log", "edge_actor", *self._where, *state, *KEEPING, python=python)

    def learner(self, python: str | Path = sys.executable, *flags: str) -> Program:
        keys = ("--signing-key", str(self._keys / "learner.key"), "--keyring", str(self._keys / "keyring"))
        state = ("--state", str(self.folder / "state"), "--report", str(self.folder / "report.json"))
        all_flags = (*self._where, *keys, *state, *CLOCKED, *flags)
        return Program(self.folder / "learner.log", "cloud_learner", *all_flags, python=python)

    def monitor(self, python: str | Path = sys.executable) -> Program:
        flags = ("--db", str(self.folder / "history/fleet.db"), "--flush-period-s", "0.2")
        return Program(self.folder / "monitor.log", "fleet_monitor", *self._where, *flags, python=python)

    def telemetry(self, name: str) -> Telemetry | None:
        boards = self.collector.snapshot().boards
        return next((board.telemetry for board in boards if board.board_id == name), None)

    def counted(self, name: str, counter: str) -> int:
        return seen.counters.get(counter, 0) if (seen := self.telemetry(name)) else 0

    def steps(self, name: str) -> int:
        return sum(run.env_steps for run in seen.runs.values()) if (seen := self.telemetry(name)) else 0

    def heartbeat(self) -> LearnerReport | None:
        return self.collector.snapshot().learner

    def updates(self) -> int:
        return seen.learner_updates if (seen := self.heartbeat()) else 0

    def await_steps(self, name: str, more: int = 200) -> None:
        """Wait until a board has acted on."""
        before = self.steps(name)
        self.wait_until(lambda: self.steps(name) > before + more, timeout_s=60, what=f"further steps of {name}")

    def await_count(self, name: str, counter: str, more: int = 1) -> None:
        """Wait until a board has counted something."""
        before = self.counted(name, counter)
        what = f"{counter} of {name}"
        self.wait_until(lambda: self.counted(name, counter) >= before + more, timeout_s=60, what=what)


def board_acts_on_and_recovers(fleet: SpoiledFleet, error: int) -> None:
    """A board's disk refuses in mid-run, with the learner there and away, and takes everything again later."""
    machine, wait_until = fleet.machine("b1"), fleet.wait_until
    policy, outbox = fleet.folder / "b1/b1/policy.frame", fleet.folder / "b1/b1/outbox.db"
    with fleet.board("b1", machine.python) as acting:
        with fleet.learner() as learning:
            wait_until(policy.exists, timeout_s=90, what="a policy on the disk")
            wait_until((policy.parent / "floors").exists, timeout_s=60, what="floors on the disk")
            before = policy.read_bytes()
            machine.refuse(error)
            fleet.await_count("b1", "state_unwritable", 3)
            fleet.await_steps("b1")
            learning.kill()
        fleet.await_count("b1", "spill_failed", 2)
        fleet.await_steps("b1")
        assert not {path.name for path in policy.parent.iterdir()} & {".policy.frame.draft", ".floors.draft"}
        machine.recover()
        # Its old name was given up before the disk refused the new content.
        wait_until(
            lambda: policy.exists() and policy.read_bytes() != before, timeout_s=60, what="the policy that was refused"
        )
        fleet.await_count("b1", "windows_spilled", 20)
        fleet.await_steps("b1")
        acting.kill()
        assert "Traceback" not in acting.said()
    assert outbox.exists()
    with fleet.board("b1", machine.python) as acting:
        wait_until(
            lambda: fleet.counted("b1", "outbox_recovered") > 20, timeout_s=60, what="the outbox of the last boot"
        )
        with fleet.learner() as learning:
            wait_until(
                lambda: fleet.counted("b1", "outbox_recovered") == fleet.counted("b1", "recovered_acked"),
                timeout_s=120,
                what="the acks of what had waited",
            )
            learning.process.terminate()
            learning.process.wait(60)
        seen = fleet.telemetry("b1")
        assert seen is not None
        assert _UNSOUND.isdisjoint(seen.counters)
        assert "Traceback" not in acting.said()
    assert read_report(fleet.folder)["trajectories"]["add_up"]


def boards_survive_a_refusal_at_each_change(fleet: SpoiledFleet, error: int, *, changes: range) -> None:
    """Each board's disk fails after another number of changes; each acts on, is killed, and its disk is sound."""
    names = {f"b{after}": after for after in changes}
    machines = {name: fleet.machine(name) for name in names}
    with ExitStack() as boards:
        with fleet.learner() as learning:
            for name, after in names.items():
                machines[name].refuse(error, after=after)
                boards.enter_context(fleet.board(name, machines[name].python))
            for name in names:
                fleet.wait_until(lambda name=name: fleet.steps(name) > 100, timeout_s=120, what=f"steps of {name}")
            learning.kill()
        for name in names:
            # The later ones fail only when windows go to the disk, which is now that the learner is away.
            what = f"a refusal for {name}, after {machines[name].changes} changes"
            fleet.wait_until(lambda name=name: machines[name].refused > 0, timeout_s=90, what=what)
            fleet.await_steps(name, 50)
    for name in names:
        assert "Traceback" not in (fleet.folder / f"{name}.log").read_text(), name
    with ExitStack() as boards:
        for name in names:
            boards.enter_context(fleet.board(name))
        for name in names:
            heard = fleet.steps(name)
            fleet.wait_until(
                lambda name=name, heard=heard: fleet.steps(name) != heard, timeout_s=60, what=f"telemetry of {name}"
            )
            seen = fleet.telemetry(name)
            assert seen is not None
            assert _UNSOUND.isdisjoint(seen.counters), (name, seen.counters)


def learner_learns_on_and_recovers(fleet: SpoiledFleet, error: int) -> None:
    """A learner's disk refuses in mid-run: it learns and says so, saves again later, and what is there is whole."""
    machine, wait_until = fleet.machine("state"), fleet.wait_until
    checkpoint = fleet.folder / "state/checkpoint.pt"

    def trouble() -> str:
        return seen.problem if (seen := fleet.heartbeat()) else ""

    with fleet.board("b1"), fleet.learner(machine.python) as learning:
        wait_until(checkpoint.exists, timeout_s=90, what="a checkpoint")
        machine.refuse(error)
        wait_until(lambda: "checkpoint.pt" in trouble(), timeout_s=60, what="a heartbeat that says so")
        before, saved = fleet.updates(), checkpoint.read_bytes()
        wait_until(lambda: fleet.updates() > before + 10, timeout_s=60, what="further updates")
        assert checkpoint.read_bytes() == saved
        machine.recover()
        wait_until(lambda: "checkpoint.pt" not in trouble(), timeout_s=60, what="a heartbeat without trouble")
        assert checkpoint.read_bytes() != saved
        learning.process.terminate()
        assert learning.process.wait(60) == ExitCode.INTERRUPTED
    report = read_report(fleet.folder)
    assert report["trajectories"]["add_up"]
    assert report["learner"]["state_refusals"] >= 1
    assert "Traceback" not in learning.said()


def learner_ends_on_a_disk_that_refuses(fleet: SpoiledFleet, error: int) -> None:
    """A learner is told to end while its disk refuses: no command without its audit, a report, and an exit status."""
    machine = fleet.machine("state")
    with fleet.board("b1"), fleet.learner(machine.python) as learning:
        fleet.wait_until((fleet.folder / "state/checkpoint.pt").exists, timeout_s=90, what="a checkpoint")
        fleet.wait_until(lambda: fleet.updates() > 5, timeout_s=60, what="updates")
        machine.refuse(error)
        learning.process.terminate()
        assert learning.process.wait(60) == ExitCode.STATE_UNUSABLE
    assert "b1 is not given a command (Pause)" in learning.said()
    assert "Traceback" not in learning.said()
    report = read_report(fleet.folder)
    assert report["learner"]["state_refusals"] >= 1
    assert report["env_steps"] > 0


def learner_resumes_after_a_refusal_at_each_change(fleet: SpoiledFleet, error: int, *, changes: range) -> None:
    """A learner's disk fails after so many changes, and it is killed then: the next start goes on."""
    machine, learning_said = fleet.machine("state"), fleet.folder / "learner.log"
    resumed_from = 0

    def refusals() -> int:
        said = learning_said.read_text() if learning_said.exists() else ""
        return said.count("cannot write") + said.count("cannot be used as an audit log")

    with fleet.board("b1"):
        for after in changes:
            before = refusals()
            machine.refuse(error, after=after)
            with fleet.learner(machine.python) as learning:
                fleet.wait_until(
                    lambda before=before: refusals() > before,
                    timeout_s=90,
                    what=f"a refusal after {after} changes",
                )
                if "state folder" in learning.said().splitlines()[-1]:  # there from the start: nothing has begun
                    assert learning.process.wait(60) == ExitCode.STATE_UNUSABLE
                elif after % 2:  # it goes on where it had to wait, or is killed in the middle of it
                    machine.recover()
                    updates = fleet.updates()
                    fleet.wait_until(
                        lambda updates=updates: fleet.updates() > updates + 3, timeout_s=60, what="further updates"
                    )
                learning.kill()
            assert "Traceback" not in learning.said()
            machine.recover()
            saved = SavedRun.load(StateFolder(fleet.folder / "state"))
            assert saved is None or saved.progress["updates"] >= resumed_from
            resumed_from = saved.progress["updates"] if saved else 0


def monitor_goes_on_and_recovers(fleet: SpoiledFleet, error: int) -> None:
    """A monitor's disk refuses in mid-run: it says so once, goes on, records again later, and its file is whole."""
    machine, wait_until = fleet.machine("history"), fleet.wait_until
    database = fleet.folder / "history/fleet.db"

    def rows() -> int:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM latency").fetchone()[0]

    with fleet.learner(), fleet.board("b1"), fleet.monitor(machine.python) as monitor:
        wait_until(lambda: database.exists() and "recording" in monitor.said(), timeout_s=60, what="a monitor")
        wait_until(rows, timeout_s=90, what="history")
        before = machine.refused
        machine.refuse(error)
        wait_until(lambda: machine.refused > before + 5, timeout_s=60, what="several refusals")
        assert monitor.process.poll() is None, monitor.said()
        machine.recover()
        recorded = rows()
        wait_until(lambda: rows() > recorded, timeout_s=60, what="new history")
        monitor.process.terminate()
        assert monitor.process.wait(60) == ExitCode.OK
    assert len(re.findall("cannot be used as the monitor's file", monitor.said())) == 1
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
