"""F37: 256 MB, 64 open files, one core and a card whose flushes take seconds: no crash, but counted back-pressure."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from fleet_processes import board, learner, read_report
from narrow_machine import memory_limit, narrow, slow_card

from benchmarks.fleet_ears import FleetEars
from edgerl.broker import free_port, start_broker
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode
from fleet_protocol.messages import RunCounters

MEMORY_BYTES: Final = 256 * 2**20
FILES: Final = 64
HZ: Final = 50
ROBOT: Final = (
    *("--control-hz", str(HZ), "--unroll-length", "8", "--max-age-s", "600", "--max-policy-lag", "100000"),
    *("--checkpoint-every-s", "5", "--publish-every-s", "2", "--publish-every-updates", "1000000"),
)
NARROW_BOARD: Final = ("--spill-after-s", "2", "--keep-policy-every-s", "5")


def run_of(ears: FleetEars) -> RunCounters:
    """What the board last said of its windows."""
    told = ears.telemetry.get("b1")
    return next(iter(told.runs.values()), RunCounters()) if told else RunCounters()


# Outboxes for five and ten seconds of windows, so that the outage overflows them.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("flush_s", "outbox_bytes", "outage_s"),
    [(0.3, 10_000, 20.0), pytest.param(2.0, 20_000, 40.0, marks=pytest.mark.thorough)],
)
def test_F37_a_board_and_a_learner_with_next_to_nothing_neither_crash_nor_lose_uncounted(
    flush_s: float,
    outbox_bytes: int,
    outage_s: float,
    fleet_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
    record_property: Callable[[str, object], None],
):
    address = BrokerAddress("127.0.0.1", free_port())
    broker = start_broker(address.port)
    with FleetEars(address, fleet=fleet_name) as ears, broker as first:
        with monkeypatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(slow_card(tmp_path, flush_s=flush_s)))
            learning = learner(tmp_path, address, fleet_name, *ROBOT)
            acting = board(tmp_path, address, fleet_name, "b1", *NARROW_BOARD, "--outbox-bytes", str(outbox_bytes))
        with learning, acting, memory_limit(acting.process.pid, MEMORY_BYTES) as limited_by:
            record_property("memory limited by", limited_by)
            for program in (learning, acting):
                narrow(program.process.pid, files=FILES)
            wait_until(lambda: run_of(ears).acked > 20, timeout_s=120, what="the first acks")
            workers = acting.children("edge_actor.worker")

            first.process.kill()
            time.sleep(outage_s)  # the fault's length, not a wait for anything
            with start_broker(address.port):
                wait_until(lambda: run_of(ears).dropped, timeout_s=120, what="the board's word after the outage")
                told, run = ears.telemetry["b1"], run_of(ears)
                # The outbox is bounded and says what it dropped; the card was written, and the control loop went on.
                assert run.dropped["outbox_full"] > 0
                assert told.health.outbox_bytes <= outbox_bytes
                assert told.counters["windows_spilled"] > 0
                assert told.counters.get("deadline_misses", 0) < 0.5 * told.counters["ticks"]
                wait_until(lambda: run_of(ears).acked > run.acked + 50, timeout_s=120, what="more acks")
                assert acting.process.poll() is None
                assert acting.children("edge_actor.worker") == workers
                ears.pause(["b1"])
                wait_until(lambda: run_of(ears).in_outbox == 0, timeout_s=120, what="an empty outbox")
                learning.process.terminate()
                assert learning.process.wait(120) == ExitCode.INTERRUPTED, learning.said()
    for program in (learning, acting):
        assert "Traceback" not in program.said(), program.said()
        assert "Too many open files" not in program.said()
    trajectories = read_report(tmp_path)["trajectories"]
    assert trajectories["add_up"], trajectories
    assert trajectories["lost_window"] == 0, trajectories
