"""Starts the toolkit's programs and the swarm for a benchmark, and looks at what the processes take."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_END_WAIT_S: Final = 60.0


@contextmanager
def program(
    module: str, *flags: str, cores: set[int] | None = None, log: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """One of our programs, until the context ends; SIGTERM ends it, and SIGKILL where that does not.

    Args:
        module: What `python -m` runs.
        flags: Its flags.
        cores: Those that it may use; None = all.
        log: File for what it says; None = said to nobody.
    """
    with (log or Path(os.devnull)).open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", module, *flags], stdout=said, stderr=said)
    if cores is not None:
        os.sched_setaffinity(process.pid, cores)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def running_swarm(folder: Path, *arguments: Any) -> Any:  # noqa: ANN401 - a `RunningSwarm` of tests/swarm
    """The swarm, as tests run it: folder, address, fleet, boards, flags."""
    sys.path.append(str(ROOT / "tests/swarm"))
    from running_swarm import RunningSwarm  # noqa: PLC0415 - it is no package

    return RunningSwarm(folder, *arguments)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, its threads together."""
    # The name in brackets may hold spaces; what follows the last bracket begins with the state, field 3.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def worker_pids(agent_pid: int) -> list[int]:
    """The worker processes of a board's agent."""
    children = Path(f"/proc/{agent_pid}/task/{agent_pid}/children").read_text(encoding="ascii").split()
    return [pid for pid in map(int, children) if b"edge_actor.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def written_bytes(pid: int) -> int:
    """What a process has had written to a disk so far."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("write_bytes"))
