"""Since when a worker has been inside its environment: written by the worker, watched by the supervisor.

Shared memory and not a message, because a worker that hangs in foreign code can send nothing.
"""

import mmap
import os
import time
from contextlib import nullcontext
from typing import Final, Self

_SIZE: Final = 8

UNWATCHED: Final = nullcontext()
"""Stands in for a clock where nobody looks for hangs."""


class StepClock:
    """Eight bytes that two processes see: monotonic ns, or 0 outside of the environment.

    A context manager, and entered at every step: `with clock: environment.step(...)`.

    Args:
        fd: File descriptor of the memory; `make` gives a new one.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self._cell = memoryview(self._memory).cast("q")

    @classmethod
    def make(cls) -> Self:
        """New memory, to be passed on to a worker by its descriptor."""
        fd = os.memfd_create("edgerl-step-clock")
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def __enter__(self) -> None:
        self._cell[0] = time.monotonic_ns()

    def __exit__(self, *_: object) -> None:
        self._cell[0] = 0

    def busy_s(self) -> float:
        """For how many seconds the environment has not returned; 0 when nobody is inside."""
        since: int = self._cell[0]
        return (time.monotonic_ns() - since) / 1e9 if since else 0.0

    def close(self) -> None:
        """Give the memory back."""
        self._cell.release()
        self._memory.close()
        os.close(self.fd)
