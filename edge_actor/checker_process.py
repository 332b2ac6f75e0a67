"""The supervisor's end of a checker: start it, talk to it, notice its death."""

import subprocess
import sys
import time
from multiprocessing.connection import Pipe
from typing import Final

from edge_actor.checker_messages import CheckPolicy, FromChecker
from fleet_protocol.codec import decode, encode

_END_WAIT_S: Final = 1.0


class CheckerProcess:
    """The supervisor's end of a checker.

    Attributes:
        pipe: To wait on.
        is_ready: It has loaded what it needs.
    """

    def __init__(self) -> None:
        self.pipe, theirs = Pipe()
        self.is_ready = False
        self.started_at = time.monotonic()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edge_actor.checker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, request: CheckPolicy) -> None:
        """Send a policy; a dead checker is noticed where its pipe is read."""
        try:
            self.pipe.send_bytes(encode(request))
        except OSError:
            return

    def receive(self) -> FromChecker:
        """Read one message.

        Raises:
            EOFError: The checker has died.
        """
        try:
            return decode(self.pipe.recv_bytes(), FromChecker)
        except OSError as error:
            raise EOFError from error

    def end(self, *, wait_s: float = _END_WAIT_S) -> int:
        """End the process and return its exit status."""
        self.pipe.close()
        try:
            return self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
