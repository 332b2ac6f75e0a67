"""F17: nobody reaches the broker for a while. Windows wait, each is learned once, and drops are counted (D4, D5).

Outages of an hour or a day are not run here: what grows with their length is the outbox, and its bounds are tested.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from accounts import CLOCKED, Accounts
from fleet_processes import board, learner
from running_swarm import RunningSwarm
from tcp_proxy import TcpProxy

from edgerl.broker import RunningBroker

WaitUntil = Callable[..., None]


class Outages:
    """A fleet behind one line to its broker; we listen on the broker's side."""

    def __init__(self, folder: Path, broker: RunningBroker, fleet: str, wait_until: WaitUntil) -> None:
        self.folder, self._fleet, self._wait_until = folder, fleet, wait_until
        self._stack = ExitStack()
        self.proxy = TcpProxy(broker.address)
        self.accounts = Accounts(broker.address, fleet)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.proxy)
        self._stack.enter_context(self.accounts)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(*exception)  # pyright: ignore[reportArgumentType]

    def begin(self, boards: int, *flags: str, swarm: int = 0) -> None:
        """Start everything, and wait until windows flow."""
        self.learning = self._stack.enter_context(learner(self.folder, self.proxy.address, self._fleet, *CLOCKED))
        for number in range(boards):
            self._stack.enter_context(board(self.folder, self.proxy.address, self._fleet, f"b{number}", *flags))
        if swarm:
            self._stack.enter_context(
                RunningSwarm(self.folder, self.proxy.address, self._fleet, swarm, "--period-s", "0.5")
            )
        self._wait_until(
            lambda: len(self.accounts.acked) == boards + swarm and self.accounts.count_acked() > 20 * (boards + swarm),
            timeout_s=120,
            what="the first acks of all boards",
        )

    def lose_the_broker(self, outage_s: float) -> None:
        """The line is down for so long."""
        self.proxy.down()
        time.sleep(outage_s)  # an outage has a length, whatever happens in it
        self.proxy.up()

    def recover(self) -> None:
        """Wait until what was produced during the outage is acked, and new windows flow."""
        produced = self.accounts.boards()["produced"]
        self._wait_until(
            lambda: self.accounts.boards()["produced"] > produced, timeout_s=120, what="telemetry after the outage"
        )
        produced = self.accounts.boards()["produced"]
        self._wait_until(
            lambda: self.accounts.count_acked() > produced and not self.accounts.has_holes(),
            timeout_s=240,
            what=lambda: f"the acks of {produced} windows; the wire says {dict(self.accounts.acked)}",
        )

    def close(self) -> dict[str, int]:
        """End the learner, and compare all accounts."""
        self.learning.process.terminate()
        self.learning.process.wait(60)
        return self.accounts.close(self.folder, self._wait_until, *CLOCKED, through=self.proxy.address)["trajectories"]


@pytest.fixture
def outages(tmp_path: Path, mosquitto: RunningBroker, fleet_name: str, wait_until: WaitUntil) -> Outages:
    return Outages(tmp_path, mosquitto, fleet_name, wait_until)


@pytest.mark.everyday
def test_F17_a_broker_that_is_away_for_a_second_costs_nothing(outages: Outages):
    with outages:
        outages.begin(2)
        for _ in range(2):
            outages.lose_the_broker(1.0)
            outages.recover()
        windows = outages.close()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())


@pytest.mark.timeout(600)
def test_F17_what_waits_for_a_broker_that_is_away_for_a_minute_is_on_disk_and_is_learned_once(
    outages: Outages,
):
    with outages:
        outages.begin(2, "--spill-after-s", "2")
        outages.lose_the_broker(60.0)
        outages.recover()
        assert outages.accounts.counter("windows_spilled") > 2 * 500  # 12.5 a second and board
        windows = outages.close()
    assert windows["lost_window"] == 0
    assert not any(windows["dropped"].values())


def test_F17_beyond_its_budget_a_board_drops_the_oldest_and_counts_each(outages: Outages, wait_until: WaitUntil):
    with outages:
        outages.begin(1, "--outbox-bytes", "20000")
        outages.lose_the_broker(15.0)
        wait_until(
            lambda: outages.accounts.boards()["dropped"] > 0, timeout_s=120, what="telemetry that tells of drops"
        )
        acked = outages.accounts.count_acked()
        wait_until(lambda: outages.accounts.count_acked() > acked + 100, timeout_s=120, what="new acks")
        windows = outages.close()
    assert windows["lost_window"] == 0
    assert windows["dropped"]["outbox_full"] > 0
    assert windows["dropped"]["stale"] == 0


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_F17_twenty_boards_and_a_broker_that_is_away_for_a_second_and_for_a_minute(outages: Outages):
    with outages:
        outages.begin(2, "--spill-after-s", "2", swarm=18)
        for outage_s in (1.0, 60.0):
            outages.lose_the_broker(outage_s)
            outages.recover()
        windows = outages.close()
    assert windows["lost_window"] == 0
    assert windows["produced"] == windows["learned"] + windows["in_outbox"] + sum(windows["dropped"].values())
