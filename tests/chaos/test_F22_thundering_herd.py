"""F22: a thousand boards lose their broker in the same moment, and come back without trampling it down."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from fleet_processes import learner, read_report
from running_swarm import RunningSwarm

from edgerl.broker import free_port, start_broker
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode

BACK_S: Final = 30.0
LIGHT_WORK: Final = (
    *("--unroll-length", "8", "--copies", "2", "--batch-windows", "64"),
    *("--publish-every-s", "5", "--publish-every-updates", "1000000"),
)
"""All boards share one processor with the learner: small windows, and a policy now and then."""


# After 30 s most boards wait as long as they ever do: up to 20 s, at random.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("boards", "outage_s"), [(300, 10.0), pytest.param(1000, 30.0, marks=pytest.mark.thorough)])
def test_F22_all_boards_are_back_within_thirty_seconds_of_the_brokers_return(
    boards: int, outage_s: float, fleet_name: str, tmp_path: Path, wait_until: Callable[..., None]
):
    address = BrokerAddress("127.0.0.1", free_port())
    with (
        RunningSwarm(tmp_path, address, fleet_name, boards, "--period-s", "5", "--report-period-s", "0.5") as swarm,
        learner(tmp_path, address, fleet_name, *LIGHT_WORK) as learning,
    ):
        with start_broker(address.port, kind="mosquitto") as broker:
            _allow_files(broker.pid)
            wait_until(lambda: swarm.now("served") == boards, timeout_s=180, what="an ack for every board")
            broker.process.kill()
        wait_until(lambda: swarm.now("connected") == 0, timeout_s=30, what="the end of all sessions")
        time.sleep(outage_s)  # the fault's length, not a wait for anything
        with start_broker(address.port, kind="mosquitto") as broker:
            returned = time.monotonic()
            _allow_files(broker.pid)
            wait_until(lambda: swarm.now("connected") == boards, timeout_s=120, what="the last board's return")
            # Nothing was persisted: what boards find was retained again by the learner, and every one is served.
            for name in ("with_run", "with_policy", "served"):
                wait_until(lambda name=name: swarm.now(name) == boards, timeout_s=120, what=f"{name} of every board")
            assert swarm.seconds_to(0.99, "connected", since=returned) <= BACK_S
            learning.process.terminate()
            assert learning.process.wait(120) == ExitCode.INTERRUPTED, learning.said()
    assert "Traceback" not in learning.said()
    trajectories = read_report(tmp_path)["trajectories"]
    assert trajectories["add_up"], trajectories


def _allow_files(pid: int) -> None:
    """Let the broker take so many connections, where a process is given fewer at its start."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
