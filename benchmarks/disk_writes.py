"""How many bytes an hour does a board's agent write to its SD card, with the link up and with the link down?

`write_bytes` of /proc/PID/io for supervisor and worker together: what the kernel was given for the disk, whole pages,
file system included as far as it is charged to them. One board plays CartPole at 50 Hz, which is what it produces
with or without a link, or waits for acks, as the defaults have it, and so has little to keep while the link is down.
Only the proved policy is written while the link is up, every `keep_policy_every_s` (300 s).
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.fleet_ears import FleetEars
from benchmarks.programs import program, worker_pids, written_bytes
from benchmarks.report import Claim, Row, argument_parser, finish
from edgerl.broker import free_port, start_broker
from fleet_protocol.address import BrokerAddress

FLEET: Final = "disk"
BOARD: Final = "b1"
LEARNER: Final = ("--evaluation-episodes", "0")
PACES: Final = {"50 Hz": ("--control-hz", "50"), "waits for acks": ()}
KEEPS_POLICY_S: Final = 300.0
"""The default of `keep_policy_every_s`."""
SETTLE_S: Final = 15.0
"""After a start or a loss of the link: the first policy is kept, and the first windows have waited long enough."""
START_WAIT_S: Final = 60.0


def main() -> None:
    """Measure each pace with the link up, then down."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, help="how long to look at each (default 300, quick 30)")
    arguments = parser.parse_args()
    seconds: float = arguments.seconds or (30.0 if arguments.quick else KEEPS_POLICY_S)
    rows = [row for pace, flags in PACES.items() for row in _measure(pace, flags, seconds)]
    written = {(row["pace"], row["link"]): float(row["mb_per_hour"] or 0) for row in rows}
    # One policy of 11 kB in 300 s, and the pages and directory entries that replacing a file dirties.
    claims = [
        *(Claim.at_most(f"MB an hour with the link up, {pace}", written[pace, "up"], 1.0) for pace in PACES),
        *(Claim.at_least(f"MB an hour with the link down, {pace}", written[pace, "down"], 1e-6) for pace in PACES),
    ]
    finish(arguments, rows, claims, packages=("paho-mqtt", "numpy"))


def _measure(pace: str, flags: tuple[str, ...], seconds: float) -> Iterator[Row]:
    address = BrokerAddress("127.0.0.1", free_port())
    where = ("--broker", str(address), "--fleet", FLEET)
    with tempfile.TemporaryDirectory(dir=".") as name:  # /tmp may be memory, and then nothing counts
        boards = Path(name) / "boards"
        with (
            program("cloud_learner", *where, *LEARNER, *flags, "--state", str(Path(name) / "learner")),
            program("edge_actor", *where, "--board", BOARD, "--state", str(boards)) as agent,
        ):
            with start_broker(address.port) as broker:
                _wait_for_windows(address)
                time.sleep(SETTLE_S)
                yield _row(pace, "up", agent.pid, seconds, boards)
                broker.process.kill()
            time.sleep(SETTLE_S)
            yield _row(pace, "down", agent.pid, seconds, boards)


def _row(pace: str, link: str, agent_pid: int, seconds: float, boards: Path) -> Row:
    pids = [agent_pid, *worker_pids(agent_pid)]
    before = sum(map(written_bytes, pids))
    time.sleep(seconds)
    written = sum(map(written_bytes, pids)) - before
    return {
        "pace": pace,
        "link": link,
        "seconds": seconds,
        "kb_written": written / 1e3,
        "mb_per_hour": written / 1e6 * 3600 / seconds,
        "kb_in_state": sum(file.stat().st_size for file in boards.rglob("*") if file.is_file()) / 1e3,
    }


def _wait_for_windows(address: BrokerAddress) -> None:
    deadline = time.monotonic() + START_WAIT_S
    with FleetEars(address, fleet=FLEET) as ears:
        while not any(run.acked for told in ears.telemetry.values() for run in told.runs.values()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no window of the board was acked within {START_WAIT_S} s")
            time.sleep(0.05)


if __name__ == "__main__":
    main()
