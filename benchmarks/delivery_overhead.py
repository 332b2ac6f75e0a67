"""What do durable delivery, TLS and signatures cost a board in steps a second, on CartPole?

The same board and learner in turns on a plain and on a secured fleet. `waits`: as the defaults have it, the worker
waits for the learner's acks. `free`: it never does, the windows are long, and the learner's updates cheap, so that
the board alone sets the pace. The board has one core for agent and worker together, learner and broker have the others.
The policy stays random, so that all play the same game.
"""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from benchmarks.fleet_ears import FleetEars
from benchmarks.fleets import BOARD, NAME, BenchFleet, plain_fleet, secured_fleet
from benchmarks.programs import program
from benchmarks.report import Claim, Row, argument_parser, finish
from fleet_protocol.messages import Telemetry

RANDOM_POLICY: Final = ("--learning-rate", "1e-12", "--evaluation-episodes", "0")
PACES: Final = {
    "waits": RANDOM_POLICY,
    "free": (
        *RANDOM_POLICY,
        *("--max-in-flight", "0", "--unroll-length", "512", "--passes", "1", "--hidden-sizes", "[8]"),
    ),
}
FLEETS: Final[dict[str, Callable[[], AbstractContextManager[BenchFleet]]]] = {
    "plain": plain_fleet,
    "secured": secured_fleet,
}
WARM_UP_S: Final = 4.0
START_WAIT_S: Final = 60.0


def main() -> None:
    """Measure in turns, and compare."""
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, help="pairs of each pace (default 7, quick 3)")
    arguments = parser.parse_args()
    repeats: int = arguments.repeats or (3 if arguments.quick else 7)
    seconds = 5.0 if arguments.quick else 10.0
    speeds: dict[tuple[str, str], list[float]] = {(pace, fleet): [] for pace in PACES for fleet in FLEETS}
    dropped = 0
    for repeat in range(repeats):
        for pace, learner in PACES.items():
            for fleet in FLEETS if repeat % 2 else reversed(FLEETS):  # neither always goes first
                speed, lost = _measure(FLEETS[fleet], learner, seconds=seconds)
                speeds[pace, fleet].append(speed)
                dropped += lost
    rows = [_row(pace, fleet, measured) for (pace, fleet), measured in speeds.items()]
    claims = []
    for pace in PACES:
        ratios = [
            secured / plain for secured, plain in zip(speeds[pace, "secured"], speeds[pace, "plain"], strict=True)
        ]
        cost = 1 - statistics.median(ratios)
        spread = f"{1 - max(ratios):.3f} to {1 - min(ratios):.3f}"
        claims.append(Claim.at_most(f"{pace}: share of steps a second that it costs (pairs: {spread})", cost, 0.15))
    claims.append(Claim.at_most("windows that boards dropped", dropped, 0))
    finish(arguments, rows, claims, packages=("ai-edge-litert", "numpy", "paho-mqtt", "cryptography"))


def _measure(
    make_fleet: Callable[[], AbstractContextManager[BenchFleet]], learner: tuple[str, ...], *, seconds: float
) -> tuple[float, int]:
    """Environment steps a second of one board, and windows that it dropped."""
    cores = sorted(os.sched_getaffinity(0))
    with make_fleet() as fleet:
        os.sched_setaffinity(fleet.broker.pid, set(cores[1:] or cores))
        state = ("--state", str(fleet.folder / "learner"))
        board = (*fleet.board, "--telemetry-period-s", "0.5")
        with (
            program("cloud_learner", *fleet.learner, *learner, *state, cores=set(cores[1:] or cores)),
            program("edge_actor", *board, cores={cores[0]}),
            FleetEars(fleet.monitor, fleet=NAME, client_id="monitor") as ears,
        ):
            before = _after(ears, _acting(ears) + WARM_UP_S)
            after = _after(ears, before.uptime_s + seconds)
    steps = _env_steps(after) - _env_steps(before)
    return steps / (after.uptime_s - before.uptime_s), sum(sum(run.dropped.values()) for run in after.runs.values())


def _acting(ears: FleetEars) -> float:
    """The board's uptime when its first windows were there."""
    return _first(ears, lambda telemetry: _env_steps(telemetry) > 0).uptime_s


def _after(ears: FleetEars, uptime_s: float) -> Telemetry:
    return _first(ears, lambda telemetry: telemetry.uptime_s >= uptime_s)


def _first(ears: FleetEars, is_it: Callable[[Telemetry], bool]) -> Telemetry:
    deadline = time.monotonic() + START_WAIT_S
    while time.monotonic() < deadline:
        telemetry = ears.telemetry.get(BOARD)
        if telemetry is not None and is_it(telemetry):
            return telemetry
        time.sleep(0.01)
    raise RuntimeError(f"the board did not report what was expected within {START_WAIT_S} s")


def _env_steps(telemetry: Telemetry) -> int:
    return sum(run.env_steps for run in telemetry.runs.values())


def _row(pace: str, fleet: str, speeds: list[float]) -> Row:
    return {
        "pace": pace,
        "fleet": fleet,
        "repeats": len(speeds),
        "steps_per_s": statistics.median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
    }


if __name__ == "__main__":
    main()
