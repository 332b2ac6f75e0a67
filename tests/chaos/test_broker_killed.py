"""F18: the broker is killed and comes back, with what it had or without: no acked window is lost, none counts twice.

Acks may die with the broker, ours too, so what was acked is what the boards have heard (D1, D3).
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from accounts import CLOCKED, Accounts
from fleet_processes import board, learner
from restartable_broker import restartable_broker
from running_swarm import RunningSwarm

WaitUntil = Callable[..., None]
BOTH = pytest.mark.parametrize("persists", [False, True], ids=["it forgets", "it persists"])


def kill_again_and_again(
    folder: Path, fleet: str, wait_until: WaitUntil, *, persists: bool, kills: int, swarm: int = 0
) -> None:
    with restartable_broker(persists=persists) as broker, ExitStack() as stack:
        accounts = stack.enter_context(Accounts(broker.address, fleet))
        learning = stack.enter_context(learner(folder, broker.address, fleet, *CLOCKED))
        for name in ("b1", "b2"):
            stack.enter_context(board(folder, broker.address, fleet, name))
        if swarm:
            stack.enter_context(RunningSwarm(folder, broker.address, fleet, swarm, "--period-s", "0.5"))
        for _ in range(kills):
            acked = accounts.boards()["acked"]
            wait_until(
                lambda acked=acked: accounts.boards()["acked"] > acked + 20 * (2 + swarm),
                timeout_s=180,
                what="acks that boards have heard",
            )
            broker.kill()
            broker.start()
        acked = accounts.boards()["acked"]
        wait_until(
            lambda: accounts.boards()["acked"] > acked + 100 and accounts.boards()["in_outbox"] < 20 * (2 + swarm),
            timeout_s=180,
            what="acks after the last kill",
        )
        learning.process.terminate()
        learning.process.wait(60)
        windows = accounts.close(folder, wait_until, *CLOCKED, heard_all=False)["trajectories"]
        assert "Traceback" not in learning.said()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())


@pytest.mark.everyday
def test_F18_a_broker_that_is_killed_and_forgets_costs_nothing(fleet_name: str, tmp_path: Path, wait_until: WaitUntil):
    kill_again_and_again(tmp_path, fleet_name, wait_until, persists=False, kills=1)


@BOTH
@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_F18_a_broker_that_is_killed_three_times_costs_nothing(
    persists: bool, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    kill_again_and_again(tmp_path, fleet_name, wait_until, persists=persists, kills=3)


@BOTH
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_F18_twenty_boards_and_a_broker_that_is_killed_three_times(
    persists: bool, fleet_name: str, tmp_path: Path, wait_until: WaitUntil
):
    kill_again_and_again(tmp_path, fleet_name, wait_until, persists=persists, kills=3, swarm=18)
