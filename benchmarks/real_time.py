"""Does a board keep 50 Hz with the CNN on one core, while its broker is killed twice and policies keep coming?

One board agent, pinned to one core, plays 84x84 Catch with four stacked frames and Nature-CNN; learner and broker have
the other cores. Ticks and misses are the worker's own count (ADR 7); `late` is the time from a tick's moment to the
worker's being awake.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.programs import program
from benchmarks.report import Claim, Row, argument_parser, finish
from edgerl.broker import free_port, start_broker
from fleet_monitor.collector import Collector
from fleet_protocol.address import BrokerAddress
from fleet_protocol.messages import Telemetry
from fleet_protocol.sketch import LatencySketch

HZ: Final = 50.0
FLEET: Final = "real-time"
OUTAGE_S: Final = 5.0
LEARNER: Final = (
    *("--env-id", "edgerl_examples.catch:Catch", "--frame-stack", "4", "--control-hz", str(HZ)),
    *("--evaluation-episodes", "0", "--unroll-length", "20"),
)
BOARD: Final = ("--board", "b1", "--allow-env", "edgerl_examples", "--telemetry-period-s", "1")


def main() -> None:
    """Run once, and read what the board counted."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, help="how long to keep the rate (default 600, quick 60)")
    arguments = parser.parse_args()
    seconds: float = arguments.seconds or (60.0 if arguments.quick else 600.0)
    before, after, kills = _measure(seconds)
    ticks, misses = (_grown(before, after, name) for name in ("ticks", "deadline_misses"))
    late = LatencySketch.from_state(after.sketches["tick_late_us"])
    step = LatencySketch.from_state(after.sketches["step_us"])
    policies = after.policy_version - before.policy_version
    elapsed = after.uptime_s - before.uptime_s
    row: Row = {
        "board": "one core, Nature-CNN",
        "seconds": elapsed,
        "ticks": ticks,
        "deadline_misses": misses,
        "late_p50_us": late.quantile(0.5),
        "late_p99_us": late.quantile(0.99),
        "late_max_us": after.sketches["tick_late_us"].maximum,
        "step_p50_us": step.quantile(0.5),
        "step_p99_us": step.quantile(0.99),
        "policies": policies,
        "broker_kills": kills,
    }
    share = misses / max(1, ticks + misses)
    claims = [
        Claim("share of deadlines missed", share, "< 0.001", share < 0.001),
        Claim.at_least("ticks counted / ticks due", (ticks + misses) / (HZ * elapsed), 0.95),
        Claim.at_least("times that the broker was killed", kills, 2),
        Claim.at_least("policies that came in meanwhile", policies, 10),
    ]
    finish(arguments, [row], claims, packages=("ai-edge-litert", "numpy", "paho-mqtt"))


def _measure(seconds: float) -> tuple[Telemetry, Telemetry, int]:
    """The board's counters before and after, and how often the broker was killed in between."""
    cores = sorted(os.sched_getaffinity(0))
    address = BrokerAddress("127.0.0.1", free_port())
    flags = ("--broker", str(address), "--fleet", FLEET)
    with (
        tempfile.TemporaryDirectory() as folder,
        program("cloud_learner", *flags, *LEARNER, "--state", folder, cores=set(cores[1:] or cores)),
        program("edge_actor", *flags, *BOARD, cores={cores[0]}),
    ):
        with _broker(address):
            before = _telemetry(address, above=0)
            time.sleep(seconds / 3)
        kills = 0
        for _ in range(2):
            kills += 1
            time.sleep(OUTAGE_S)
            with _broker(address):
                time.sleep(seconds / 3 - OUTAGE_S)
                after = _telemetry(address, above=before.counters["ticks"])
        return before, after, kills


@contextmanager
def _broker(address: BrokerAddress) -> Iterator[None]:
    """A broker that is killed at the end of its time."""
    with start_broker(address.port) as broker:
        yield
        broker.process.kill()
        broker.process.wait()


def _telemetry(address: BrokerAddress, *, above: int) -> Telemetry:
    """The board's next report with more ticks than these."""
    with Collector(address, fleet=FLEET, history_path=None) as collector:
        while True:
            for board in collector.snapshot().boards:
                if board.telemetry is not None and board.telemetry.counters.get("ticks", 0) > above:
                    return board.telemetry
            time.sleep(0.05)


def _grown(before: Telemetry, after: Telemetry, counter: str) -> int:
    return after.counters.get(counter, 0) - before.counters.get(counter, 0)


if __name__ == "__main__":
    main()
