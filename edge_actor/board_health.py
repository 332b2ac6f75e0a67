"""How the board itself is: memory of the agent's processes."""

from collections.abc import Iterable
from pathlib import Path


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size of processes, together, in MB (10^6 bytes); 0 where the kernel does not tell."""
    return sum(_pss_kb(pid) for pid in pids) * 1024 / 1e6


def _pss_kb(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
