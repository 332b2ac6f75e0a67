"""How long do two boards and a learner on this machine take to learn a task, from the first policy to the target?

Each row is one `edgerl demo` with its own seed: real processes, a real broker, int8 policies. The clock starts with the
publication of the first policy, which no environment step can precede; `command_s` is the whole command, with start-up
and evaluation. Processes race, so a seed does not fix its row.
"""

import math
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.demo_runs import run_demo
from benchmarks.report import Claim, Row, argument_parser, finish


class Task(NamedTuple):
    """A task with its target, its settings, and how often and how long it is tried.

    Attributes:
        target: Mean return of 100 episodes.
        settings: A file of `examples/`, or empty for the defaults.
        seeds: Runs.
        quick_seeds: Runs with --quick.
        limit_s: Seconds of learning after which a run gives up: the goal, where there is one.
        learner_toml: Lines of the `[learner]` table, where no file has them.
    """

    target: float
    settings: str = ""
    seeds: int = 3
    quick_seeds: int = 1
    limit_s: float = 120.0
    learner_toml: str = ""


TASKS: Final = {
    "CartPole-v1": Task(475.0, seeds=5, quick_seeds=2),
    "Pendulum-v1": Task(-250.0, learner_toml="gamma = 0.95"),
    "Acrobot-v1": Task(-100.0, "acrobot.toml"),
    "InvertedPendulum-v5": Task(900.0, "inverted_pendulum.toml"),
    "LunarLander-v3": Task(200.0, "lunarlander.toml", limit_s=240.0),
    "T-maze (GRU)": Task(0.9, "tmaze.toml"),
    "Catch in pixels (CNN)": Task(9.0, "catch.toml", limit_s=240.0),
}
EXAMPLES: Final = Path("examples")


def main() -> None:
    """Run the seeds one after the other."""
    parser = argument_parser(__doc__)
    parser.add_argument("--task", choices=TASKS, help="only this task; all if left out")
    arguments = parser.parse_args()
    rows: list[Row] = []
    claims: list[Claim] = []
    for name in [arguments.task] if arguments.task else TASKS:
        task = TASKS[name]
        seeds = task.quick_seeds if arguments.quick else task.seeds
        measured = [_row(name, task, seed=seed) for seed in range(1, seeds + 1)]
        claims += _claims(name, task, measured)
        rows += measured
    finish(arguments, rows, claims, packages=("torch", "gymnasium", "ai-edge-litert", "paho-mqtt"))


def _claims(task_name: str, task: Task, rows: list[Row]) -> list[Claim]:
    name = f"{task_name} to {task.target:g}"
    seconds = [_number(row["time_to_target_s"], math.inf) for row in rows]
    if task_name != "CartPole-v1":
        reached = sum(map(math.isfinite, seconds))
        return [Claim.at_least(f"{name}, seeds that reached it within {task.limit_s:g} s", reached, len(rows))]
    worst = min(_number(row["evaluation"], -math.inf) for row in rows)
    return [
        Claim(f"{name}, median seconds", median := float(np.median(seconds)), "< 15", median < 15),
        Claim.at_most(f"{name}, slowest seed, seconds", max(seconds), 40),
        Claim.at_least(f"{task_name}, greedy int8 evaluation, worst seed", worst, task.target),
    ]


def _row(name: str, task: Task, *, seed: int) -> Row:
    started = time.monotonic()
    settings = (EXAMPLES / task.settings).read_text(encoding="utf-8") if task.settings else "[learner]\n"
    env = [] if task.settings else ["--env", name]
    report: dict[str, Any] = run_demo(
        [*env, "--target-return", str(task.target)],
        settings=settings + task.learner_toml,
        seed=seed,
        time_limit_s=task.limit_s,
    )
    return {
        "task": name,
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
