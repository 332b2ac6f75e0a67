"""The supervisor's end of a process of ours: start it, talk to it in the fleet's encoding, notice its death."""

import subprocess
import sys
from multiprocessing.connection import Pipe
from typing import Any, Final, Generic, TypeVar

from fleet_protocol.codec import decode, encode
from fleet_protocol.messages import Message

SaidT = TypeVar("SaidT")

_END_WAIT_S: Final = 1.0


class ChildProcess(Generic[SaidT]):
    """A module of ours in a process of its own, at the other end of a pipe.

    Args:
        module: What `python -m` runs; its first argument is its pipe's file descriptor.
        says: The types of what it sends.
        fds: Further file descriptors that it gets, as arguments.

    Attributes:
        pipe: To wait on.
    """

    def __init__(self, module: str, says: Any, *fds: int) -> None:  # noqa: ANN401 - a type or a union of types
        self.pipe, theirs = Pipe()
        self._says = says
        with theirs:
            given = (theirs.fileno(), *fds)
            # -P: what lies in the working directory is not imported.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, given)], pass_fds=given, stdin=subprocess.DEVNULL
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, message: Message) -> None:
        """Send a message; a dead process is noticed where its pipe is read."""
        try:
            self.pipe.send_bytes(encode(message))
        except OSError:
            return

    def receive(self) -> SaidT:
        """Read one message.

        Raises:
            EOFError: The process has died.
        """
        try:
            return decode(self.pipe.recv_bytes(), self._says)
        except OSError as error:
            raise EOFError from error

    def end(self, *, wait_s: float = _END_WAIT_S) -> int:
        """End the process and return its exit status; it may bring to an end what it does meanwhile."""
        self.pipe.close()
        try:
            return self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
