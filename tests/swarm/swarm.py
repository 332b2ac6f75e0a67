"""Plays many boards from one asyncio process, a program of its own so that its CPU time is not a server's.

`python tests/swarm/swarm.py --broker 127.0.0.1:1883 --boards 200` runs beside a real learner and monitor, prints one
JSON line a second, and ends at SIGTERM or Ctrl-C at once, as a fleet does whose power fails: wills are sent.
"""

import argparse
import asyncio
import json
import resource
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Final

from swarm_board import SwarmBoard

from fleet_protocol.address import DEFAULT_TLS_PORT, BrokerAddress
from fleet_protocol.tls import TlsFiles

_FILES_PER_BOARD: Final = 4
"""A socket, and paho's pair of them."""
_OTHER_FILES: Final = 100


def main() -> None:
    """Play a swarm from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="127.0.0.1:1883")
    parser.add_argument("--fleet", default="demo")
    parser.add_argument("--boards", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first board")
    parser.add_argument("--period-s", type=float, default=1.0, help="seconds between windows of one board")
    parser.add_argument("--report-period-s", type=float, default=1.0, help="seconds between lines")
    parser.add_argument("--credentials", type=Path, help="speak TLS: folder with one folder of credentials per board")
    flags = parser.parse_args()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_DFL)
    _allow_files(flags.boards * _FILES_PER_BOARD + _OTHER_FILES)
    names = [f"swarm-{n:04d}" for n in range(flags.first, flags.first + flags.boards)]
    boards = [
        SwarmBoard(name, _address(flags.broker, flags.credentials, name), fleet=flags.fleet, period_s=flags.period_s)
        for name in names
    ]
    asyncio.run(_play(boards, report_period_s=flags.report_period_s))


async def _play(boards: list[SwarmBoard], *, report_period_s: float) -> None:
    async with asyncio.TaskGroup() as group:
        for board in boards:
            group.create_task(board.live())
        group.create_task(_report(boards, report_period_s))


async def _report(boards: list[SwarmBoard], period_s: float) -> None:
    while True:
        print(json.dumps(_summary(boards)), flush=True)  # noqa: T201 - this is what it is asked for
        await asyncio.sleep(period_s)


def _summary(boards: list[SwarmBoard]) -> dict[str, float | dict[str, int]]:
    """How the swarm is; `monotonic_s` can be compared with other processes of this machine."""
    counters = [run for board in boards for run in board.outbox.counters().values()]
    dropped = sum((Counter(run.dropped) for run in counters), Counter[str]())
    return {
        "monotonic_s": time.monotonic(),
        "boards": len(boards),
        "connected": sum(board.is_connected for board in boards),
        "connects": sum(board.connects for board in boards),
        "with_run": sum(board.is_connected and board.has_run for board in boards),
        "with_policy": sum(board.is_connected and board.has_policy for board in boards),
        "served": sum(board.is_connected and board.acked_now > 0 for board in boards),
        "acked_min": min(board.acked for board in boards),
        "acked": sum(board.acked for board in boards),
        "produced": sum(run.produced for run in counters),
        "in_outbox": sum(len(board.outbox) for board in boards),
        "dropped": dict(dropped),
    }


def _address(broker: str, credentials: Path | None, board_id: str) -> BrokerAddress:
    if credentials is None:
        return BrokerAddress.parse(broker).require_loopback()
    plain, folder = BrokerAddress.parse(broker, default_port=DEFAULT_TLS_PORT), credentials / board_id
    files = TlsFiles(folder / "ca.crt", folder / "client.crt", folder / "client.key")
    return BrokerAddress(plain.host, plain.port, files)


def _allow_files(needed: int) -> None:
    """Raise this process's limit of open files where it is too low.

    Raises:
        SystemExit: The machine does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(
            f"expected {needed} open files to be allowed, got {hard}: raise `ulimit -Hn`, or play fewer boards"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


if __name__ == "__main__":
    main()
