"""How much memory does a board's agent take with one worker, and does anything of torch get loaded into it?

PSS is what the report says (supervisor, worker and checker together). The learner on the same machine shares some
libraries with the agent, which flatters PSS; the sum of the resident sizes counts every shared page in full, and bounds
it from above. Modules are read from /proc/PID/maps while a demo runs; that the same look finds torch in the learner
proves the look.
"""

from pathlib import Path
from typing import Any, Final

from benchmarks.demo_runs import run_demo
from benchmarks.report import Claim, finish, parse_arguments

_ROLES: Final = {
    "edge_actor": "supervisor",
    "edge_actor.worker": "worker",
    "edge_actor.checker": "checker",
    "cloud_learner": "learner",
}


class ProcessLook:
    """What was seen of the demo's processes, over many looks.

    Attributes:
        rss_kb: Largest resident size seen, by role and process id.
        with_torch: The processes that had libtorch mapped.
    """

    def __init__(self) -> None:
        self.rss_kb: dict[tuple[str, int], int] = {}
        self.with_torch: set[tuple[str, int]] = set()

    def look(self, demo_pid: int) -> None:
        """Look at every process below the demo; one that ends meanwhile is passed over."""
        for pid in _descendants(demo_pid):
            try:
                self._look_at(pid)
            except (OSError, StopIteration):
                continue

    def pids(self, role: str) -> set[int]:
        """Processes seen in a role."""
        return {pid for seen, pid in self.rss_kb if seen == role}

    def _look_at(self, pid: int) -> None:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        role = _ROLES.get(arguments[arguments.index("-m") + 1]) if "-m" in arguments[:-1] else None
        if role is None:
            return
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        rss_kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
        self.rss_kb[role, pid] = max(rss_kb, self.rss_kb.get((role, pid), 0))
        if "libtorch" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8"):
            self.with_torch.add((role, pid))


def main() -> None:
    """Run demos with one board, then with two."""
    arguments = parse_arguments(__doc__)
    rows = [_row(boards) for boards in ((1,) if arguments.quick else (1, 2))]
    claims = [
        Claim.at_most("agent with one worker, PSS in MB, as reported", max(row["pss_mb"] for row in rows), 160),
        Claim.at_most("agent with one worker and checker, sum of RSS in MB", max(row["rss_mb"] for row in rows), 160),
        Claim.at_most("supervisors and workers with libtorch mapped", sum(row["agents_torch"] for row in rows), 0),
        Claim.at_least("worker processes looked at, per board", min(row["workers_per_board"] for row in rows), 1),
        Claim.at_least("learners in which the same look finds libtorch", min(row["learner_torch"] for row in rows), 1),
    ]
    finish(arguments, rows, claims, packages=("ai-edge-litert", "numpy", "gymnasium"))


def _row(boards: int) -> dict[str, float]:
    seen = ProcessLook()
    report: dict[str, Any] = run_demo(
        ["--env", "CartPole-v1", "--target-return", "475"], seed=1, time_limit_s=60, boards=boards, look=seen.look
    )
    largest = {
        role: max((kb for (of, _), kb in seen.rss_kb.items() if of == role), default=0) for role in _ROLES.values()
    }
    return {
        "boards": boards,
        "pss_mb": max(board["pss_mb"] for board in report["boards"].values()),
        "rss_mb": (largest["supervisor"] + largest["worker"] + largest["checker"]) * 1024 / 1e6,
        "supervisor_rss_mb": largest["supervisor"] * 1024 / 1e6,
        "worker_rss_mb": largest["worker"] * 1024 / 1e6,
        "checker_rss_mb": largest["checker"] * 1024 / 1e6,
        "workers_per_board": len(seen.pids("worker")) / boards,
        "agents_torch": sum(role != "learner" for role, _ in seen.with_torch),
        "learner_torch": sum(role == "learner" for role, _ in seen.with_torch),
    }


def _descendants(root: int) -> list[int]:
    """Process ids below a process, itself left out."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold spaces; what follows the last bracket is state, then parent.
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found, new = [], {root}
    while new := {pid for pid, parent in parents.items() if parent in new}:
        found += sorted(new)
    return found


if __name__ == "__main__":
    main()
