"""The supervisor's end of a worker: start it, talk to it, notice its death."""

import subprocess
import sys
from multiprocessing.connection import Pipe
from typing import Final

from edge_actor.step_clock import StepClock
from edge_actor.worker_messages import Credit, FromWorker, StartRun, ToWorker
from fleet_protocol.codec import decode, encode

_END_WAIT_S: Final = 1.0


class WorkerProcess:
    """One worker and its pipe. What it sends has the fleet's types; what it is sent, too.

    Attributes:
        index: Its place on the board, from 0.
        serial: Its own number, which no other process of this agent ever gets.
        pipe: To wait on.
        finished: Windows of it that were acked or dropped.
        is_ready: Its environments are made.
        is_halted: It has said that it takes no step.
        policy_version: What it has loaded, 0 for nothing.
    """

    def __init__(self, index: int, serial: int, start: StartRun) -> None:
        self.index = index
        self.serial = serial
        self.pipe, theirs = Pipe()
        self.finished = 0
        self.is_ready = False
        self.is_halted = False
        self.policy_version = 0
        self._granted = 0
        self._clock = StepClock.make()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edge_actor.worker", str(theirs.fileno()), str(self._clock.fd)],
                pass_fds=[theirs.fileno(), self._clock.fd],
                stdin=subprocess.DEVNULL,
            )
        self.send(start)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        """Send a message; a dead worker is noticed where its pipe is read."""
        try:
            self.pipe.send_bytes(encode(message))
        except OSError:
            return

    def receive(self) -> FromWorker:
        """Read one message.

        Raises:
            EOFError: The worker has died.
        """
        try:
            return decode(self.pipe.recv_bytes(), FromWorker)
        except OSError as error:
            raise EOFError from error

    def grant(self, max_in_flight: int) -> None:
        """Let it begin as many windows as may be unacked; 0 lets it run free."""
        windows = self.finished + max_in_flight if max_in_flight else 2**31
        if windows > self._granted:
            self._granted = windows
            self.send(Credit(windows=windows))

    def busy_s(self) -> float:
        """For how many seconds its environment has not returned."""
        return self._clock.busy_s()

    def end(self, *, wait_s: float = _END_WAIT_S) -> int:
        """End the process and return its exit status; it may close its environment meanwhile."""
        self.pipe.close()
        try:
            return self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._clock.close()
