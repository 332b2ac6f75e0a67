"""Does anything grow, miss a beat or get lost while 200 swarm boards and 2 real ones run for ten minutes?

Boards keep 50 Hz, so that windows come at a rate which the learner can take. A process's growth is the median of its
resident memory in the last tenth of the time, less that in the tenth after the warm-up (the first fifth). It counts
what the allocator keeps as well: a learner that is starved of processor time queues windows, and does not give back
the pages.
At the end all boards are paused, and their outboxes have to empty.
"""

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.fleet_ears import FleetEars
from benchmarks.programs import program, rss_bytes, running_swarm, worker_pids
from benchmarks.report import Claim, Row, argument_parser, finish
from edgerl.broker import RunningBroker, start_broker

FLEET: Final = "soak"
AGENTS: Final = ("real-1", "real-2")
LEARNER: Final = (
    *("--control-hz", "50", "--evaluation-episodes", "0", "--batch-windows", "32"),
    *("--publish-every-updates", "1000000"),
    # Recordings teach nothing: with a real step size the policy saturates, and boards rightly refuse it.
    *("--learning-rate", "1e-7"),
)
LOOK_EVERY_S: Final = 1.0
START_WAIT_S: Final = 120.0
EMPTY_WAIT_S: Final = 120.0
WARM_UP: Final = 0.2
TENTH: Final = 0.1
HARMLESS: Final = frozenset(
    {"ticks", "ticks_held", "deadline_misses", "reconnects", "windows_resent", "commands_accepted"}
)
"""Counters of an agent that tell of no loss."""


class Soak:
    """One fleet, from its start to its report.

    Attributes:
        boards: Of the swarm.
        rss: Resident bytes by process, one for each look.
        counters: What agents counted that may tell of a loss.
        report: The learner's.
    """

    def __init__(self, folder: Path, *, boards: int, seconds: float) -> None:
        self._folder = folder
        self.boards = boards
        self._seconds = seconds
        self.rss: defaultdict[str, list[int]] = defaultdict(list)
        self.counters: Counter[str] = Counter()
        self.report: dict[str, Any] = {}
        self.in_outbox = self.dropped = self.acked = self.connects = 0

    def run(self) -> FleetEars:
        """Start everything, look, pause, and read the accounts."""
        with ExitStack() as stack:
            broker = stack.enter_context(start_broker(None))
            swarm = stack.enter_context(
                running_swarm(self._folder, broker.address, FLEET, self.boards, "--period-s", "2")
            )
            with ExitStack() as programs:
                processes = self._start(programs, broker)
                ears = programs.enter_context(FleetEars(broker.address, fleet=FLEET))
                _wait("an ack for every board", lambda: swarm.now("acked_min") > 0, START_WAIT_S)
                _wait("both agents", lambda: set(AGENTS) <= ears.telemetry.keys(), START_WAIT_S)
                self._look(processes)
                ears.pause([*AGENTS, *(name for name in ears.telemetry if name not in AGENTS)])
                _wait_or_go_on(lambda: swarm.now("in_outbox") + _held(ears) == 0, EMPTY_WAIT_S)
                self.in_outbox = swarm.now("in_outbox") + _held(ears)
                self.acked, self.connects = swarm.now("acked"), swarm.now("connects")
            self._close_the_books(ears)
        return ears

    def _start(self, programs: ExitStack, broker: RunningBroker) -> dict[str, int]:
        where = ("--broker", str(broker.address), "--fleet", FLEET)
        report, folder = str(self._folder / "report.json"), self._folder
        learner = ("--state", str(folder / "state"), "--report", report, *LEARNER)
        processes = {
            "monitor": self._program(programs, "fleet_monitor", *where, "--db", str(folder / "fleet.db")),
            "learner": self._program(programs, "cloud_learner", *where, *learner),
        }
        for name in AGENTS:
            board = ("--board", name, "--state", str(folder / "boards"))
            processes[name] = self._program(programs, "edge_actor", *where, *board, log=name)
        processes["broker"] = broker.pid
        return processes

    def _program(self, programs: ExitStack, module: str, *flags: str, log: str = "") -> int:
        process = programs.enter_context(program(module, *flags, log=self._folder / f"{log or module}.log"))
        return process.pid

    def _look(self, processes: dict[str, int]) -> None:
        workers = {f"{name} worker": pid for name in AGENTS for pid in worker_pids(processes[name])}
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            for name, pid in (processes | workers).items():
                self.rss[name].append(rss_bytes(pid))
            time.sleep(LOOK_EVERY_S)

    def _close_the_books(self, ears: FleetEars) -> None:
        self.report = json.loads((self._folder / "report.json").read_text(encoding="utf-8"))
        for name in AGENTS:
            told = ears.telemetry[name].counters.items()
            self.counters.update({counter: number for counter, number in told if counter not in HARMLESS})
        self.dropped = sum(
            sum(run.dropped.values()) for telemetry in ears.telemetry.values() for run in telemetry.runs.values()
        )


def main() -> None:
    """Run once, and compare."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, help="how long to look (default 600, quick 90)")
    parser.add_argument("--boards", type=int, help="of the swarm (default 200, quick 50)")
    arguments = parser.parse_args()
    seconds: float = arguments.seconds or (90.0 if arguments.quick else 600.0)
    boards: int = arguments.boards or (50 if arguments.quick else 200)
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(Path(name), boards=boards, seconds=seconds)
        ears = soak.run()
    rows = [_row(name, looks) for name, looks in soak.rss.items()]
    print(f"agents counted {dict(+soak.counters) or 'no loss'}; the swarm had {soak.connects} sessions")
    print(f"longest silences in s: {ears.longest_s}; boards that would have been called stale: {dict(ears.stale)}")
    _finish(arguments, rows, soak, ears)


def _finish(arguments: Namespace, rows: list[Row], soak: Soak, ears: FleetEars) -> None:
    windows = soak.report["trajectories"]
    losses = soak.dropped + sum(windows["dropped"].values()) + windows["lost_window"]
    claims = [
        *(Claim.at_most(f"growth of the {row['process']} in MB", float(row["growth_mb"] or 0), 1.0) for row in rows),
        Claim.at_most("heartbeats of the learner that were missed", ears.late_heartbeats, 0),
        Claim.at_most("sessions of swarm boards after the first", soak.connects - soak.boards, 0),
        Claim.at_most("times that a board would have been called stale", ears.stale.total(), 0),
        Claim.at_most("windows in outboxes when all have paused", soak.in_outbox, 0),
        Claim.at_most("windows dropped, refused or lost", losses, 0),
        Claim.at_most("counters of loss on the agents", sum(soak.counters.values()), 0),
        Claim.at_most("messages that the learner ignored", sum(soak.report["ignored"].values()), 0),
        Claim.at_least("the accounts add up", windows["add_up"], 1),
        Claim.at_least("windows that were learned", windows["learned"], soak.acked),
    ]
    finish(arguments, rows, claims, packages=("torch", "ai-edge-litert", "paho-mqtt", "numpy"))


def _row(name: str, looks: list[int]) -> Row:
    tenth = max(1, round(len(looks) * TENTH))
    warm = round(len(looks) * WARM_UP)
    first, last = statistics.median(looks[warm : warm + tenth]), statistics.median(looks[-tenth:])
    return {
        "process": name,
        "looks": len(looks),
        "start_mb": looks[0] / 1e6,
        "warm_mb": first / 1e6,
        "end_mb": last / 1e6,
        "max_mb": max(looks) / 1e6,
        "growth_mb": (last - first) / 1e6,
    }


def _held(ears: FleetEars) -> int:
    """Windows in the outboxes of the real boards."""
    return sum(run.in_outbox for name in AGENTS for run in ears.telemetry[name].runs.values())


def _wait(what: str, condition: Callable[[], object], timeout_s: float) -> None:
    if not _wait_or_go_on(condition, timeout_s):
        raise RuntimeError(f"{what} did not come within {timeout_s} s")


def _wait_or_go_on(condition: Callable[[], object], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


if __name__ == "__main__":
    main()
