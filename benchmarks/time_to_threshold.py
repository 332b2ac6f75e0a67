"""How long do two boards and a learner on this machine take to learn a task, from the first policy to the target?

Each row is one `edgerl demo` with its own seed: real processes, a real broker, int8 policies. The clock starts with the
publication of the first policy, which no environment step can precede; `command_s` is the whole command, with start-up
and evaluation. Processes race, so a seed does not fix its row.
"""

import math
import time
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.demo_runs import run_demo
from benchmarks.report import Claim, Row, argument_parser, finish


class Task(NamedTuple):
    """A task with its target, learner settings and numbers of seeds."""

    target: float
    learner_toml: str
    seeds: int
    quick_seeds: int


TASKS: Final = {
    "CartPole-v1": Task(475.0, "", seeds=5, quick_seeds=2),
    "Pendulum-v1": Task(-250.0, "gamma = 0.95", seeds=3, quick_seeds=1),
}
TIME_LIMIT_S: Final = 120.0


def main() -> None:
    """Run the seeds one after the other."""
    parser = argument_parser(__doc__)
    parser.add_argument("--task", choices=TASKS, help="only this task; both if left out")
    arguments = parser.parse_args()
    rows: list[Row] = []
    claims: list[Claim] = []
    for env_id in [arguments.task] if arguments.task else TASKS:
        task = TASKS[env_id]
        seeds = task.quick_seeds if arguments.quick else task.seeds
        measured = [_row(env_id, task, seed=seed) for seed in range(1, seeds + 1)]
        claims += _claims(env_id, task, measured)
        rows += measured
    finish(arguments, rows, claims, packages=("torch", "gymnasium", "ai-edge-litert", "paho-mqtt"))


def _claims(env_id: str, task: Task, rows: list[Row]) -> list[Claim]:
    name = f"{env_id} to {task.target:g}"
    seconds = [_number(row["time_to_target_s"], math.inf) for row in rows]
    if env_id != "CartPole-v1":
        reached = sum(map(math.isfinite, seconds))
        return [Claim.at_least(f"{name}, seeds that reached it within {TIME_LIMIT_S:g} s", reached, len(rows))]
    worst = min(_number(row["evaluation"], -math.inf) for row in rows)
    return [
        Claim(f"{name}, median seconds", median := float(np.median(seconds)), "< 15", median < 15),
        Claim.at_most(f"{name}, slowest seed, seconds", max(seconds), 40),
        Claim.at_least(f"{env_id}, greedy int8 evaluation, worst seed", worst, task.target),
    ]


def _row(env_id: str, task: Task, *, seed: int) -> Row:
    started = time.monotonic()
    report: dict[str, Any] = run_demo(
        env_id, task.target, seed=seed, time_limit_s=TIME_LIMIT_S, learner_toml=task.learner_toml
    )
    return {
        "task": env_id,
        "seed": seed,
        "time_to_target_s": report["time_to_target_s"],
        "wall_s": report["wall_s"],
        "command_s": time.monotonic() - started,
        "env_steps": report["env_steps"],
        "updates": report["learner_updates"],
        "return_mean_100": report["return_mean_100"],
        "evaluation": report["evaluation"]["return_mean"] if report["evaluation"] else None,
        "lag_mean": report["policy_lag"]["mean"] if report["policy_lag"] else None,
        "bytes_per_step": report["trajectories"]["bytes_per_step"],
        "broker": report["broker"]["kind"],
    }


def _number(value: object, missing: float) -> float:
    return float(value) if isinstance(value, int | float) else missing


if __name__ == "__main__":
    main()
