"""How soon are 1,000 boards back after a broker restart, when their broker was killed under all of them?

The swarm in one process, a learner and mosquitto on one machine; nothing is persisted, so that the learner retains
everything again. Seconds from the moment at which the broker answers to the first look (every 0.2 s) at which so many
boards have a session, have the retained run and a policy, and have had a window acked. A board waits up to 20 s at
random once an outage has lasted a while, so that after a long one 99 % take 18 s by construction, and the learner, who
waits in the same way, serves nobody before it is back itself.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.programs import program, running_swarm
from benchmarks.report import Claim, Row, argument_parser, finish
from edgerl.broker import RunningBroker, free_port, start_broker
from fleet_protocol.address import BrokerAddress

FLEET: Final = "herd"
LEARNER: Final = (
    *("--evaluation-episodes", "0", "--unroll-length", "8", "--copies", "2", "--batch-windows", "64"),
    *("--publish-every-s", "5", "--publish-every-updates", "1000000"),
)
SWARM: Final = ("--period-s", "5", "--report-period-s", "0.2")
OUTAGES_S: Final = (1.0, 10.0, 60.0)
STAGES: Final = {"connected": "a session", "with_policy": "the retained policy", "served": "an ack"}
WAIT_S: Final = 180.0


def main() -> None:
    """One outage after the other."""
    parser = argument_parser(__doc__)
    parser.add_argument("--boards", type=int, default=1000, help="of the swarm (default 1000)")
    arguments = parser.parse_args()
    outages = OUTAGES_S[-1:] if arguments.quick else OUTAGES_S
    rows = _measure(arguments.boards, outages)
    claims = [
        Claim.at_most(
            f"s until 99 % of {arguments.boards} boards have a session again",
            max(float(row["p99_s"] or 0) for row in rows if row["have"] == STAGES["connected"]),
            30.0,
        )
    ]
    finish(arguments, rows, claims, packages=("paho-mqtt", "aiomqtt"))


def _measure(boards: int, outages: tuple[float, ...]) -> list[Row]:
    address = BrokerAddress("127.0.0.1", free_port())
    where = ("--broker", str(address), "--fleet", FLEET)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            running_swarm(folder, address, FLEET, boards, *SWARM) as swarm,
            program("cloud_learner", *where, *LEARNER, "--state", str(folder / "state")),
        ):
            for outage in (0.0, *outages):
                time.sleep(outage)
                with start_broker(address.port, kind="mosquitto") as broker:
                    returned = time.monotonic()
                    _allow_files(broker)
                    _wait("an ack for every board", lambda: swarm.now("served") == boards)
                    broker.process.kill()
                if outage:
                    rows += [_row(outage, stage, swarm, since=returned) for stage in STAGES]
                _wait("the end of all sessions", lambda: swarm.now("connected") == 0)
    return rows


def _row(outage: float, stage: str, swarm: Any, *, since: float) -> Row:  # noqa: ANN401 - a `RunningSwarm`
    return {
        "outage_s": outage,
        "have": STAGES[stage],
        "p50_s": swarm.seconds_to(0.5, stage, since=since),
        "p90_s": swarm.seconds_to(0.9, stage, since=since),
        "p99_s": swarm.seconds_to(0.99, stage, since=since),
        "all_s": swarm.seconds_to(1.0, stage, since=since),
    }


def _allow_files(broker: RunningBroker) -> None:
    _, hard = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (hard, hard))


def _wait(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {WAIT_S} s")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
