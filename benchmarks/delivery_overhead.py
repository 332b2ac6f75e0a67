"""What do durable delivery, TLS and signatures cost a board in steps a second, on CartPole?

The same board and learner in turns on a plain and on a secured fleet. `waits`: as the defaults have it, the worker
waits for the learner's acks. `free`: it never does, the windows are long, and the learner's updates cheap, so that
the board alone sets the pace. The board has one core for agent and worker together, learner and broker have the others.
The policy stays random, so that all play the same game. Steps a second count wall time, which other work on the machine
spoils; microseconds of processor time that agent and worker take for a step do not depend on it, and are the same
figure where a board's core is busy.
"""

import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from benchmarks.fleet_ears import FleetEars
from benchmarks.fleets import BOARD, NAME, BenchFleet, plain_fleet, secured_fleet
from benchmarks.programs import cpu_seconds, program, worker_pids
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


class Speed(NamedTuple):
    """One measurement of one board."""

    steps_per_s: float
    cpu_us_per_step: float
    dropped: int


def main() -> None:
    """Measure in turns, and compare."""
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, help="pairs of each pace (default 7, quick 3)")
    arguments = parser.parse_args()
    repeats: int = arguments.repeats or (3 if arguments.quick else 7)
    seconds = 5.0 if arguments.quick else 10.0
    speeds: dict[tuple[str, str], list[Speed]] = {(pace, fleet): [] for pace in PACES for fleet in FLEETS}
    for repeat in range(repeats):
        for pace, learner in PACES.items():
            for fleet in FLEETS if repeat % 2 else reversed(FLEETS):  # neither always goes first
                speeds[pace, fleet].append(_measure(FLEETS[fleet], learner, seconds=seconds))
    rows = [_row(pace, fleet, measured) for (pace, fleet), measured in speeds.items()]
    claims = [claim for pace in PACES for claim in _claims(pace, speeds[pace, "plain"], speeds[pace, "secured"])]
    dropped = sum(speed.dropped for measured in speeds.values() for speed in measured)
    claims.append(Claim.at_most("windows that boards dropped", dropped, 0))
    finish(arguments, rows, claims, packages=("ai-edge-litert", "numpy", "paho-mqtt", "cryptography"))


def _claims(pace: str, plain: list[Speed], secured: list[Speed]) -> list[Claim]:
    """What the secured fleet costs: the median of the pairs, and their range."""
    pairs = list(zip(plain, secured, strict=True))
    by_wall = [1 - after.steps_per_s / before.steps_per_s for before, after in pairs]
    by_cpu = [1 - before.cpu_us_per_step / after.cpu_us_per_step for before, after in pairs]
    return [
        Claim.at_most(
            f"{pace}: share of steps a second of {what} that it costs (pairs: {min(costs):.3f} to {max(costs):.3f})",
            statistics.median(costs),
            0.15,
        )
        for what, costs in (("wall time", by_wall), ("processor time", by_cpu))
    ]


def _measure(
    make_fleet: Callable[[], AbstractContextManager[BenchFleet]], learner: tuple[str, ...], *, seconds: float
) -> Speed:
    cores = sorted(os.sched_getaffinity(0))
    with make_fleet() as fleet:
        os.sched_setaffinity(fleet.broker.pid, set(cores[1:] or cores))
        state = ("--state", str(fleet.folder / "learner"))
        board = (*fleet.board, "--telemetry-period-s", "0.5")
        with (
            program("cloud_learner", *fleet.learner, *learner, *state, cores=set(cores[1:] or cores)),
            program("edge_actor", *board, cores={cores[0]}) as agent,
            FleetEars(fleet.monitor, fleet=NAME, client_id="monitor") as ears,
        ):
            before = _after(ears, _acting(ears) + WARM_UP_S)
            pids = [agent.pid, *worker_pids(agent.pid)]
            cpu_before = sum(map(cpu_seconds, pids))
            after = _after(ears, before.uptime_s + seconds)
            cpu_s = sum(map(cpu_seconds, pids)) - cpu_before
    steps = _env_steps(after) - _env_steps(before)
    return Speed(
        steps / (after.uptime_s - before.uptime_s),
        cpu_s * 1e6 / steps,
        sum(sum(run.dropped.values()) for run in after.runs.values()),
    )


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


def _row(pace: str, fleet: str, measured: list[Speed]) -> Row:
    speeds, cpu = [speed.steps_per_s for speed in measured], [speed.cpu_us_per_step for speed in measured]
    return {
        "pace": pace,
        "fleet": fleet,
        "repeats": len(measured),
        "steps_per_s": statistics.median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "cpu_us_per_step": statistics.median(cpu),
        "cpu_us_min": min(cpu),
        "cpu_us_max": max(cpu),
    }


if __name__ == "__main__":
    main()
