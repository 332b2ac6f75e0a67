"""F23: a wall clock at 1970, a day behind or ahead, or that jumps in mid-run: durations, expiries, certificates, rows.

Means: a shim under the real programs shifts the wall clock, at the start or in mid-run, and never the monotonic one
(`faulty_machine.py`). It can name another boot of the kernel too. Not shown: leap seconds, which Linux clocks repeat as
a jump of one second; and a clock that runs too fast or too slowly.
"""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from failing_disk import SpoiledFleet
from faulty_machine import DAY_S, FaultyMachine
from fleet_processes import Program, read_report
from hardened_broker import hardened_fleet

from edgerl.broker import RunningBroker
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.keys import PrivateKey
from fleet_protocol.messages import Telemetry
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.signing import Signer, seal_frame
from fleet_protocol.topics import FleetTopics

Wait = Callable[..., None]
YEAR_S = 365.25 * DAY_S
LONGEST_S = 120.0
"""No duration in a test is longer: one that a clock has made would be."""


def to_1970() -> float:
    """A shift to some hours into 1970, where a board without a battery starts."""
    return 10_000.0 - datetime.now(UTC).timestamp()


@pytest.fixture
def fleet(mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Wait) -> Iterator[SpoiledFleet]:
    with SpoiledFleet(mosquitto, fleet_name, tmp_path, wait_until) as made:
        yield made


def acked(fleet: SpoiledFleet, name: str = "b1") -> int:
    return sum(run.acked for run in seen.runs.values()) if (seen := fleet.telemetry(name)) else 0


def await_acks(fleet: SpoiledFleet, more: int = 20) -> None:
    before = acked(fleet)
    fleet.wait_until(lambda: acked(fleet) > before + more, timeout_s=90, what="further acks")


def require_sane(seen: Telemetry | None) -> None:
    """Nothing was dropped, and no duration comes from the wall clock."""
    assert seen is not None
    assert not any(run.dropped for run in seen.runs.values()), seen.runs
    assert 0 < seen.uptime_s < LONGEST_S * 5
    for name, sketch in seen.sketches.items():
        longest_s = sketch.maximum * (1e-6 if name.endswith("_us") else 1e-3)
        assert 0 <= longest_s < LONGEST_S, (name, sketch)


def end(learning: Program, fleet: SpoiledFleet) -> None:
    """Have a learner settle its run: the boards obey, and all adds up."""
    learning.process.terminate()
    assert learning.process.wait(90) == ExitCode.INTERRUPTED
    report = read_report(fleet.folder)
    assert report["trajectories"]["add_up"]
    assert not any(report["trajectories"]["dropped"].values()), report["trajectories"]
    assert "Traceback" not in learning.said()


@pytest.mark.parametrize(
    "clock",
    ["1970", *(pytest.param(clock, marks=pytest.mark.thorough) for clock in ("a day behind", "half a day ahead"))],
)
def test_F23_a_board_whose_clock_is_wrong_from_the_start_works_as_any_other(fleet: SpoiledFleet, clock: str):
    machine = fleet.machine("b1")
    machine.set_clock({"1970": to_1970(), "a day behind": -DAY_S, "half a day ahead": DAY_S / 2}[clock])
    with fleet.learner() as learning, fleet.board("b1", machine.python) as acting:
        await_acks(fleet)
        fleet.await_steps("b1")
        seen = fleet.telemetry("b1")
        require_sane(seen)
        assert seen is not None
        assert not [name for name in seen.counters if name.startswith(("policy_", "run_", "command_"))], seen.counters
        if clock != "half a day ahead":  # which a command, valid for ten minutes, does not outlive
            end(learning, fleet)
        assert "Traceback" not in acting.said()


@pytest.mark.thorough
def test_F23_a_clock_that_jumps_in_mid_run_costs_a_board_at_most_new_policies(fleet: SpoiledFleet):
    machine = fleet.machine("b1")
    with fleet.learner() as learning, fleet.board("b1", machine.python) as acting:
        await_acks(fleet)
        for shift_s in (-DAY_S, DAY_S, to_1970(), 10 * YEAR_S, 0.0):
            refused = fleet.counted("b1", "policy_expired") + fleet.counted("b1", "policy_keyring_expired")
            machine.set_clock(shift_s)
            fleet.await_steps("b1")
            await_acks(fleet)
            if shift_s >= DAY_S:  # a policy is valid for a day, and what acts goes on
                fleet.wait_until(
                    lambda refused=refused: (
                        fleet.counted("b1", "policy_expired") + fleet.counted("b1", "policy_keyring_expired") > refused
                    ),
                    timeout_s=60,
                    what="a policy that is refused",
                )
            require_sane(fleet.telemetry("b1"))
        before = seen.policy_version if (seen := fleet.telemetry("b1")) else 0
        fleet.wait_until(
            lambda: (seen := fleet.telemetry("b1")) is not None and seen.policy_version > before,
            timeout_s=60,
            what="a newer policy, now that the clock is right",
        )
        end(learning, fleet)
        assert "is this board's clock right?" in acting.said()
        assert "Traceback" not in acting.said()


def test_F23_a_board_in_1970_refuses_what_expired_before_the_newest_that_it_knows(
    fleet: SpoiledFleet, mosquitto: RunningBroker, fleet_name: str
):
    machine = fleet.machine("b1")
    machine.set_clock(to_1970())
    keys = fleet.folder / "keys"
    signer = Signer(PrivateKey.load(keys / "learner.key"), (keys / "keyring").read_bytes())
    with (
        MqttConnection(mosquitto.address, client_id="freezer", subscriptions=[]) as freezer,
        fleet.learner(),
        fleet.board("b1", machine.python),
    ):
        freezer.wait_connected(15)
        await_acks(fleet)
        run_id = seen.run_id if (seen := fleet.telemetry("b1")) else ""
        # By the board's own clock it would be good for more than fifty years.
        frame = seal_frame(b"TFL3", kind="policy", version=10_000, run_id=run_id, valid_s=-60.0, signer=signer)
        assert freezer.publish(FleetTopics(fleet_name).policy("all"), frame)
        fleet.wait_until(lambda: fleet.counted("b1", "policy_expired") == 1, timeout_s=60, what="a refusal")
        fleet.await_steps("b1")


@pytest.mark.thorough
def test_F23_windows_of_a_boot_without_a_clock_are_delivered_after_a_boot_with_one(fleet: SpoiledFleet):
    machine = fleet.machine("b1")
    machine.set_clock(to_1970())
    with fleet.board("b1", machine.python) as acting:
        with fleet.learner() as learning:
            await_acks(fleet)
            fleet.wait_until((fleet.folder / "b1/b1/policy.frame").exists, timeout_s=60, what="a policy on the disk")
            learning.kill()
        fleet.await_count("b1", "windows_spilled", 20)
        acting.kill()
    machine.set_clock(0.0)
    machine.reboot()
    with fleet.learner() as learning, fleet.board("b1", machine.python):
        fleet.wait_until(
            lambda: (
                fleet.counted("b1", "outbox_recovered") >= 20
                and fleet.counted("b1", "outbox_recovered") == fleet.counted("b1", "recovered_acked")
            ),
            timeout_s=90,
            what="acks of what came in 1970",
        )
        end(learning, fleet)


@pytest.mark.thorough
def test_F23_a_learner_whose_clock_jumps_learns_on_and_its_run_adds_up(fleet: SpoiledFleet):
    machine = fleet.machine("state")
    with fleet.board("b1") as acting, fleet.learner(machine.python) as learning:
        await_acks(fleet)
        for shift_s in (-DAY_S, DAY_S / 2, to_1970(), 0.0):
            machine.set_clock(shift_s)
            updates = fleet.updates()
            fleet.wait_until(lambda updates=updates: fleet.updates() > updates + 5, timeout_s=60, what="updates")
            await_acks(fleet)
        before = seen.policy_version if (seen := fleet.telemetry("b1")) else 0
        fleet.wait_until(
            lambda: (seen := fleet.telemetry("b1")) is not None and seen.policy_version > before,
            timeout_s=60,
            what="a newer policy, now that the clock is right",
        )
        require_sane(fleet.telemetry("b1"))
        end(learning, fleet)
        assert read_report(fleet.folder)["wall_s"] < LONGEST_S * 5
        assert "Traceback" not in acting.said()


def test_F23_a_learner_in_1970_is_told_to_set_the_clock(fleet: SpoiledFleet):
    machine = fleet.machine("state")
    machine.set_clock(to_1970())
    with fleet.learner(machine.python) as learning:
        assert learning.process.wait(60) == ExitCode.MACHINE_UNFIT
    assert "says this machine's clock (1970-01-01): set the clock" in learning.said()


def test_F23_a_monitors_rows_are_sane_whatever_its_clock_says(fleet: SpoiledFleet):
    machine = fleet.machine("history")
    file = fleet.folder / "history/fleet.db"

    def rows() -> list[tuple[float, ...]]:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT at, count, p50, p95, p99, maximum FROM latency").fetchall()

    def state() -> str:
        edgerl = Path(sys.executable).with_name("edgerl")
        listed = subprocess.check_output([edgerl, "fleet", "list", "--db", file, "--format", "json"], text=True)
        return "stale" if '"state": "stale"' in listed else "online" if '"state": "online"' in listed else listed

    with fleet.learner(), fleet.board("b1"), fleet.monitor(machine.python) as monitor:
        fleet.wait_until(lambda: file.exists() and "b1 is online" in monitor.said(), timeout_s=90, what="a monitor")
        fleet.wait_until(rows, timeout_s=60, what="the first rows")
        for shift_s in (-DAY_S, DAY_S, to_1970(), DAY_S):
            machine.set_clock(shift_s)
            told = datetime.now(UTC).timestamp() + shift_s
            fleet.wait_until(
                lambda told=told: any(abs(row[0] - told) < LONGEST_S for row in rows()),
                timeout_s=60,
                what=f"rows of a clock that is {shift_s:.0f} s off",
            )
        assert all(row[1] > 0 and 0 <= row[2] <= row[3] <= row[4] <= row[5] < LONGEST_S * 1e6 for row in rows())
        assert "b1 is stale" not in monitor.said()
        machine.set_clock(0.0)
        fleet.wait_until(lambda: state() == "online", timeout_s=60, what="a board that is online")
        machine.set_clock(DAY_S)
        fleet.wait_until(
            lambda: state() == "stale", timeout_s=60, what="a last word from tomorrow, which nobody believes"
        )
        monitor.kill()
        assert state() == "stale"


@pytest.mark.parametrize(
    "program",
    [
        "edge_actor",
        *(pytest.param(program, marks=pytest.mark.thorough) for program in ("cloud_learner", "fleet_monitor")),
    ],
)
def test_F23_a_certificate_that_a_wrong_clock_refuses_is_told_as_a_clock(
    program: str, tmp_path: Path, wait_until: Wait
):
    (disk := tmp_path / "disk").mkdir()
    machine = FaultyMachine(tmp_path / "machine", disk)
    name, place = {
        "edge_actor": ("b1", ("--board", "b1", "--state", str(disk))),
        "cloud_learner": ("learner", ("--state", str(disk / "state"), "--log-level", "info")),
        "fleet_monitor": ("monitor", ("--db", str(disk / "fleet.db"))),
    }[program]
    with hardened_fleet() as hardened:
        files, address = hardened.files(name), hardened.address(name)
        where = ("--broker", f"{address.host}:{address.port}", "--fleet", "home")
        flags = (*where, "--ca", str(files.ca), "--cert", str(files.cert), "--key", str(files.key), *place)
        for shift_s, sentence in ((30 * YEAR_S, "has expired"), (-90 * YEAR_S, "is not valid yet")):
            machine.set_clock(shift_s)
            year = datetime.fromtimestamp(datetime.now(UTC).timestamp() + shift_s, UTC).year
            with Program(tmp_path / "program.log", program, *flags, python=machine.python) as run:
                told = f"the broker's certificate {sentence}, says this machine's clock ({year}-"
                wait_until(lambda run=run, told=told: told in run.said(), timeout_s=60, what=told)
                if program != "edge_actor":
                    assert run.process.wait(60) == ExitCode.CERTIFICATE_REFUSED
            assert "Traceback" not in run.said()
        machine.set_clock(to_1970())  # certificates begin there, for boards without a battery
        before = hardened.said().count(f"u'{name}'")
        with Program(tmp_path / "program.log", program, *flags, python=machine.python) as run:
            wait_until(lambda: hardened.said().count(f"u'{name}'") > before, timeout_s=60, what="a connection")
            assert run.process.poll() is None, run.said()


def test_F23_a_board_that_was_refused_for_its_clock_comes_when_it_is_set(tmp_path: Path, wait_until: Wait):
    (disk := tmp_path / "disk").mkdir()
    machine = FaultyMachine(tmp_path / "machine", disk)
    machine.set_clock(30 * YEAR_S)
    with hardened_fleet() as hardened:
        files, address, heard = hardened.files("b1"), hardened.address("b1"), list[str]()
        flags = ("--broker", f"{address.host}:{address.port}", "--fleet", "home", "--board", "b1", "--state", str(disk))
        certificate = ("--ca", str(files.ca), "--cert", str(files.cert), "--key", str(files.key))
        with (
            hardened.connection("monitor", lambda topic, _payload: heard.append(topic)) as monitor,
            Program(tmp_path / "b1.log", "edge_actor", *flags, *certificate, python=machine.python) as acting,
        ):
            monitor.wait_connected(15)
            wait_until(lambda: "says this machine's clock" in acting.said(), timeout_s=60, what="a sentence")
            assert not heard
            machine.set_clock(0.0)
            wait_until(lambda: "edgerl/1/home/board/b1/status" in heard, timeout_s=90, what="the board")
