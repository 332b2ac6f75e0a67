"""A real fleet behind a bad line, whose accounts are kept on the good side of it."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from accounts import CLOCKED, Accounts
from fleet_processes import board, learner
from running_swarm import RunningSwarm
from tcp_proxy import TcpProxy

from edgerl.broker import RunningBroker

WaitUntil = Callable[..., None]


class FleetOnALine:
    """Learner and boards reach their broker through one line; we listen at the broker itself. A context manager.

    Args:
        folder: Of the learner and the boards.
        broker: At the end of the line.
        fleet: The fleet's name.
        wait_until: Of the test.
        run: Flags of the learner.
    """

    def __init__(
        self,
        folder: Path,
        broker: RunningBroker,
        fleet: str,
        wait_until: WaitUntil,
        *,
        run: tuple[str, ...] = CLOCKED,
    ) -> None:
        self.folder, self._fleet, self._wait_until, self._run = folder, fleet, wait_until, run
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
        self.learning = self._stack.enter_context(learner(self.folder, self.proxy.address, self._fleet, *self._run))
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
        """Wait until what was produced up to now is acked, and new windows flow, of every board."""
        acked = {boot: len(seqs) for boot, seqs in list(self.accounts.acked.items())}
        self._wait_until(
            lambda: all(len(self.accounts.acked[boot]) > count for boot, count in acked.items()),
            timeout_s=120,
            what="new acks for every board",
        )
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
        return self.accounts.close(self.folder, self._wait_until, *self._run, through=self.proxy.address)[
            "trajectories"
        ]
