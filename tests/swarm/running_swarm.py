"""The swarm as a process, for tests and benchmarks that read what it reports."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

from fleet_protocol.address import BrokerAddress

_PROGRAM: Final = Path(__file__).with_name("swarm.py")
_ROOT: Final = Path(__file__).parents[2]


class RunningSwarm:
    """Boards of a swarm until the context ends; then they are gone at once, as when their power fails.

    Args:
        folder: Where its lines and its log go.
        address: The broker.
        fleet: The fleet's name.
        boards: So many.
        flags: Others of `swarm.py`.
    """

    def __init__(self, folder: Path, address: BrokerAddress, fleet: str, boards: int, *flags: str) -> None:
        self.boards = boards
        self._lines, self._log = folder / "swarm.jsonl", folder / "swarm.log"
        command = [sys.executable, str(_PROGRAM), "--broker", str(address), "--fleet", fleet, "--boards", str(boards)]
        with self._lines.open("wb") as lines, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *flags], stdin=subprocess.DEVNULL, stdout=lines, stderr=log, env=_with_our_packages()
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Everything that it has reported.

        Raises:
            RuntimeError: It has died.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"the swarm ended with {self.process.returncode}: {self.said()}")
        complete = self._lines.read_text(encoding="utf-8").rpartition("\n")[0]
        return [json.loads(line) for line in complete.splitlines()]

    def now(self, name: str) -> int:
        """A number of its newest line; 0 before the first."""
        lines = self.lines()
        return lines[-1][name] if lines else 0

    def seconds_to(self, share: float, name: str, *, since: float) -> float:
        """Seconds from a monotonic time to the first line whose number has this share of all boards; inf if none."""
        times = [
            line["monotonic_s"] - since
            for line in self.lines()
            if line["monotonic_s"] >= since and line[name] >= share * self.boards
        ]
        return min(times, default=math.inf)

    def said(self) -> str:
        """Its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")


def _with_our_packages() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
