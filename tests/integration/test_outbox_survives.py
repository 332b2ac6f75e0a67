"""A board is cut off, killed and started again: what it had on disk is learned once, and totals add up (D2-D5)."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from fleet_processes import board, learner, read_report

from cloud_learner.checkpoints import StateFolder
from cloud_learner.saved_run import SavedRun
from edgerl.broker import free_port, start_broker
from fleet_monitor.collector import Collector
from fleet_protocol.address import BrokerAddress
from fleet_protocol.messages import Telemetry
from fleet_protocol.sequences import SequenceSet

SPILL_AFTER_S = 1.0
STEPS = 8
WINDOWS_PER_S = 100 / STEPS
CLOCKED = (
    *("--control-hz", "100", "--unroll-length", str(STEPS)),  # a robot: it never waits, 12 windows a second
    *("--max-age-s", "600", "--max-policy-lag", "100000", "--checkpoint-every-s", "1"),
)
Spilled = dict[str, SequenceSet]


def telemetry_of(collector: Collector, name: str) -> Telemetry | None:
    return next((board.telemetry for board in collector.snapshot().boards if board.board_id == name), None)


def acked(collector: Collector, name: str) -> int:
    seen = telemetry_of(collector, name)
    return sum(run.acked for run in seen.runs.values()) if seen else 0


def counter(collector: Collector, name: str, counter: str) -> int:
    seen = telemetry_of(collector, name)
    return seen.counters.get(counter, 0) if seen else 0


def spilled_in(folder: Path, copy: Path) -> Spilled:
    """What a dead board has on disk, by boot; read from a copy."""
    shutil.copytree(folder, copy)
    windows: Spilled = {}
    with closing(sqlite3.connect(copy / "outbox.db")) as connection:
        for boot_id, seq in connection.execute("SELECT boot_id, seq FROM window"):
            windows.setdefault(boot_id, SequenceSet()).add(seq)
    return windows


def on_disk(folder: Path) -> int:
    log = folder / "outbox.db-wal"
    return log.stat().st_size if log.exists() else 0


def learned_of(folder: Path, board_id: str) -> Spilled:
    """What stands as learned in the last checkpoint, by boot."""
    saved = SavedRun.load(StateFolder(folder / "state"))
    assert saved is not None
    boots = saved.ledger.state()["boots"]
    return {boot["boot_id"]: SequenceSet(map(tuple, boot["learned"])) for boot in boots if boot["board_id"] == board_id}


@pytest.mark.parametrize("kills", [1, 2])
def test_what_a_killed_board_had_on_disk_is_learned_once_after_its_restart(
    kills: int, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    address = BrokerAddress("127.0.0.1", free_port())
    state = tmp_path / "boards/b1"
    flags = ("--spill-after-s", str(SPILL_AFTER_S), "--seed", "1")
    with ExitStack() as stack:
        with start_broker(address.port), Collector(address, fleet=fleet_name, history_path=None) as collector:
            learning = stack.enter_context(learner(tmp_path, address, fleet_name, *CLOCKED))
            acting = stack.enter_context(board(tmp_path, address, fleet_name, "b1", *flags))
            wait_until(lambda: acked(collector, "b1") > 20, timeout_s=40, what="the first acks")
            assert not (state / "outbox.db").exists()  # the link is up: not a byte of a window
        wait_until(lambda: on_disk(state) > 60_000, timeout_s=30, what="several writes")
        acting.kill()
        spilled = spilled_in(state, tmp_path / "copy")
        count = sum(map(len, spilled.values()))
        assert count > 20
        for kill in range(1, kills):  # a new boot holds what the old one left, and acts on without a broker
            acting = stack.enter_context(board(tmp_path, address, fleet_name, "b1", *flags))
            said = f"{count} windows of earlier boots"
            wait_until(lambda acting=acting, said=said: said in acting.said(), what="its start")
            acting.kill()
            spilled = spilled_in(state, tmp_path / f"copy {kill}")
            assert sum(map(len, spilled.values())) >= count
            count = sum(map(len, spilled.values()))
        with start_broker(address.port), Collector(address, fleet=fleet_name, history_path=None) as collector:
            acting = stack.enter_context(board(tmp_path, address, fleet_name, "b1", *flags))
            wait_until(
                lambda: counter(collector, "b1", "recovered_acked") == count, timeout_s=60, what="the acks of the old"
            )
            assert counter(collector, "b1", "outbox_recovered") == count
            wait_until(lambda: not (state / "outbox.db").exists(), timeout_s=20, what="an empty disk")
            wait_until(lambda: acked(collector, "b1") > 20, timeout_s=20, what="acks of the new boot")
            learning.process.terminate()
            learning.process.wait(30)
    report = read_report(tmp_path)
    windows, learned = report["trajectories"], learned_of(tmp_path, "b1")
    for boot_id, seqs in spilled.items():
        assert learned[boot_id].overlap(seqs) == len(seqs)
    assert windows["add_up"], windows
    assert windows["learned"] * STEPS == report["env_steps"]  # each was learned once
    assert windows["learned"] == sum(map(len, learned.values()))
    # What was younger than spill_after_s at the kill is nowhere, and nobody has seen it: it is no part of the accounts.
    assert windows["lost_window"] <= 2 * SPILL_AFTER_S * WINDOWS_PER_S
