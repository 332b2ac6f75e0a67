"""F40: other versions: unknown fields are ignored, missing ones have defaults, what is too new is refused and kept.

Means: a translator between boards and learner rewrites every message as a later or an earlier version of the protocol
would have written it (`translator.py`); files get the number of a later schema. Not shown: programs of an earlier
release, since there is none yet; and signed frames, which nobody can rewrite in flight: their fields are the same.
"""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from fleet_processes import Program, board, learner, read_report
from translator import Rewrite, Translator, earlier, later

from edgerl.broker import RunningBroker
from fleet_monitor.collector import Collector
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import Telemetry
from fleet_protocol.mqtt import MqttConnection

Wait = Callable[..., None]
CLOCKED = ("--control-hz", "100", "--unroll-length", "8", "--max-age-s", "6000", "--max-policy-lag", "100000")
NOT_SAID = ("undecodable", "unexpected", "hash", "size", "expired", "refused", "mismatch")


def telemetry_of(collector: Collector) -> Telemetry | None:
    return next((board.telemetry for board in collector.snapshot().boards), None)


def acked(collector: Collector) -> int:
    return sum(run.acked for run in seen.runs.values()) if (seen := telemetry_of(collector)) else 0


@pytest.mark.parametrize("rewrite", [later, earlier])
def test_F40_boards_and_a_learner_of_neighbouring_versions_work_together(
    rewrite: Rewrite, mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Wait
):
    boards, learners = f"{fleet_name}-boards", f"{fleet_name}-learner"
    database = tmp_path / "fleet.db"
    monitored = ("--broker", str(mosquitto.address), "--fleet", learners, "--db", str(database))
    with (
        Translator(mosquitto, boards=boards, learner=learners, rewrite=rewrite) as translator,
        Collector(mosquitto.address, fleet=boards, history_path=None) as collector,
        learner(tmp_path, mosquitto.address, learners, "--evaluation-episodes", "2") as learning,
        Program(tmp_path / "monitor.log", "fleet_monitor", *monitored, "--flush-period-s", "0.2") as monitor,
        board(tmp_path, mosquitto.address, boards, "b1") as acting,
    ):
        wait_until(lambda: acked(collector) > 100, timeout_s=120, what="a hundred acks")
        wait_until(lambda: "b1 is online" in monitor.said(), timeout_s=60, what="a monitor that sees the board")
        seen = telemetry_of(collector)
        assert seen is not None
        assert not [name for name in seen.counters if any(word in name for word in NOT_SAID)], seen.counters
        learning.process.terminate()
        assert learning.process.wait(60) == ExitCode.INTERRUPTED
    report = read_report(tmp_path)
    assert report["trajectories"]["add_up"]
    assert report["trajectories"]["refused"] == 0
    assert report["ignored"].get("decode_errors", 0) == 0
    for program in (learning, monitor, acting):
        assert "Traceback" not in program.said()
    assert {"run", "policy", "learner", "ack", "command", "trajectory", "telemetry", "reply", "status"} <= set(
        translator.translated
    )


def test_F40_another_protocol_version_is_named_by_a_board_that_acts_on(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Wait
):
    with (
        Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector,
        MqttConnection(mosquitto.address, client_id="newer learner", subscriptions=[]) as newer,
        learner(tmp_path, mosquitto.address, fleet_name),
        board(tmp_path, mosquitto.address, fleet_name, "b1") as acting,
    ):
        wait_until(lambda: acked(collector) > 10, timeout_s=90, what="the first acks")
        newer.wait_connected(15)
        assert newer.publish(f"edgerl/2/{fleet_name}/learner", b"what version 2 says", retain=True)
        wait_until(lambda: "install the same EdgeRL on both" in acting.said(), timeout_s=60, what="a sentence")
        before = acked(collector)
        wait_until(lambda: acked(collector) > before + 10, timeout_s=60, what="further acks")
        seen = telemetry_of(collector)
        assert seen is not None
        assert seen.counters["learner_protocol_mismatch"] >= 1


def test_F40_an_outbox_of_a_newer_schema_is_left_alone_and_the_board_acts(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Wait
):
    file = tmp_path / "boards/b1/outbox.db"
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE window (id INTEGER PRIMARY KEY, what_comes_then TEXT)")
        database.execute("INSERT INTO window VALUES (1, 'precious')")
        database.execute("PRAGMA user_version=2")
    before = file.read_bytes()
    with Collector(mosquitto.address, fleet=fleet_name, history_path=None) as collector:
        with board(tmp_path, mosquitto.address, fleet_name, "b1", "--spill-after-s", "0.5") as acting:
            with learner(tmp_path, mosquitto.address, fleet_name, *CLOCKED) as learning:
                wait_until(lambda: acked(collector) > 20, timeout_s=90, what="the first acks")
                learning.kill()
            wait_until(
                lambda: (seen := telemetry_of(collector)) is not None and seen.counters.get("spill_failed", 0) > 2,
                timeout_s=60,
                what="refused writes",
            )
        assert acting.process.returncode == ExitCode.OK
    assert "written by a newer EdgeRL (schema 2, known is 1)" in acting.said()
    assert "Traceback" not in acting.said()
    assert file.read_bytes() == before


def test_F40_a_checkpoint_of_a_newer_schema_is_refused_and_kept(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Wait
):
    file = tmp_path / "state/checkpoint.pt"
    with board(tmp_path, mosquitto.address, fleet_name, "b1"):
        with learner(tmp_path, mosquitto.address, fleet_name, "--checkpoint-every-s", "0.5"):
            wait_until(file.exists, timeout_s=90, what="a checkpoint")
        saved = torch.load(file, weights_only=True)
        torch.save(saved | {"schema": saved["schema"] + 1, "what_comes_then": 1}, file)
        before = file.read_bytes()
        with learner(tmp_path, mosquitto.address, fleet_name) as learning:
            assert learning.process.wait(60) == ExitCode.STATE_UNUSABLE
    assert "written by a newer EdgeRL (schema 2, known is 1)" in learning.said()
    assert "Traceback" not in learning.said()
    assert file.read_bytes() == before


def test_F40_a_monitors_file_of_a_newer_schema_is_refused_and_kept(
    mosquitto: RunningBroker, fleet_name: str, tmp_path: Path, wait_until: Wait
):
    file = tmp_path / "fleet.db"
    flags = ("--broker", str(mosquitto.address), "--fleet", fleet_name, "--db", str(file), "--flush-period-s", "0.1")
    with Program(tmp_path / "monitor.log", "fleet_monitor", *flags) as monitor:
        wait_until(lambda: "recording" in monitor.said(), timeout_s=60, what="a monitor")
    with closing(sqlite3.connect(file)) as database:
        newer = database.execute("PRAGMA user_version").fetchone()[0] + 1
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute(f"PRAGMA user_version={newer}")
    before = file.read_bytes()
    with Program(tmp_path / "monitor.log", "fleet_monitor", *flags) as monitor:
        assert monitor.process.wait(60) == ExitCode.STATE_UNUSABLE
    assert f"written by a newer EdgeRL (schema {newer}" in monitor.said()
    edgerl = Path(sys.executable).with_name("edgerl")
    told = subprocess.run([edgerl, "fleet", "list", "--db", file], capture_output=True, text=True, check=False)
    assert told.returncode == ExitCode.STATE_UNUSABLE
    assert "written by a newer EdgeRL" in told.stderr
    assert file.read_bytes() == before
