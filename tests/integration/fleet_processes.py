"""Real learners and boards as processes, for tests that kill, starve and confuse them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from fleet_protocol.address import BrokerAddress


class Program:
    """One of our programs as a process, with a log; a context manager that ends it.

    `through` are arguments of Python that start the module, where `-m` is not to do it.
    """

    def __init__(
        self,
        log: Path,
        module: str,
        *flags: str,
        python: str | Path = sys.executable,
        through: Sequence[str] = ("-m",),
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [python, *through, module, *flags], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def said(self) -> str:
        """All that it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def children(self, module: str) -> list[int]:
        """Its child processes that run a module."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in path.read_text().split()]
        return [pid for pid in pids if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]


def board(
    folder: Path,
    address: BrokerAddress,
    fleet: str,
    name: str,
    *flags: str,
    python: str | Path = sys.executable,
) -> Program:
    """A board agent; `python` may be that of another environment."""
    return Program(
        folder / f"{name}.log",
        "edge_actor",
        *("--broker", str(address), "--fleet", fleet, "--board", name, "--telemetry-period-s", "0.3"),
        *("--state", str(folder / "boards"), *flags),
        python=python,
    )


def learner(folder: Path, address: BrokerAddress, fleet: str, *flags: str, through: Sequence[str] = ("-m",)) -> Program:
    """A learner of CartPole-v1 with its state and report in `folder`."""
    return Program(
        folder / "learner.log",
        "cloud_learner",
        *("--broker", str(address), "--fleet", fleet, "--state", str(folder / "state")),
        *("--report", str(folder / "report.json"), "--evaluation-episodes", "0", *flags),
        through=through,
    )


def read_report(folder: Path) -> dict[str, Any]:
    """The learner's report."""
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def kill(pid: int) -> None:
    """SIGKILL a process."""
    os.kill(pid, signal.SIGKILL)
