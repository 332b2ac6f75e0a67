"""How long do two boards and a learner on this machine take to learn a task, from the first policy to the target?

Each row is one `edgerl demo` with its own seed: real processes, a real broker, int8 policies. The clock starts with the
publication of the first policy, which no environment step can precede.
"""

from typing import Any

import numpy as np

from benchmarks.demo_runs import run_demo
from benchmarks.report import Claim, Row, finish, parse_arguments

CARTPOLE = ("CartPole-v1", 475.0, "")
PENDULUM = ("Pendulum-v1", -250.0, "gamma = 0.95")


def main() -> None:
    """Run the seeds one after the other."""
    arguments = parse_arguments(__doc__)
    cartpole = [_row(*CARTPOLE, seed=seed) for seed in range(1, 3 if arguments.quick else 6)]
    pendulum = [_row(*PENDULUM, seed=seed) for seed in range(1, 2 if arguments.quick else 4)]
    seconds = [float(row["time_to_target_s"]) for row in cartpole]
    slowest_pendulum = max(float(row["time_to_target_s"]) for row in pendulum)
    claims = [
        Claim.at_most("CartPole-v1 to 475, median seconds", float(np.median(seconds)), 15),
        Claim.at_most("CartPole-v1 to 475, slowest seed, seconds", max(seconds), 40),
        Claim.at_least("CartPole-v1, greedy int8 evaluation, worst seed", min(_evaluations(cartpole)), 475),
        Claim.at_most("Pendulum-v1 to -250, slowest seed, seconds", slowest_pendulum, 120),
    ]
    finish(arguments, [*cartpole, *pendulum], claims, packages=("torch", "gymnasium", "ai-edge-litert", "paho-mqtt"))


def _row(env_id: str, target: float, learner_toml: str, *, seed: int) -> Row:
    report: dict[str, Any] = run_demo(env_id, target, seed=seed, time_limit_s=120, learner_toml=learner_toml)
    act = report["policies"]["publish_to_act_ms"]
    return {
        "task": env_id,
        "seed": seed,
        "time_to_target_s": report["time_to_target_s"] if report["reached"] else float("inf"),
        "env_steps": report["env_steps"],
        "updates": report["learner_updates"],
        "evaluation": report["evaluation"]["return_mean"],
        "lag_mean": report["policy_lag"]["mean"],
        "act_ms_p50": act["p50"],
        "act_ms_p99": act["p99"],
        "bytes_per_step": report["trajectories"]["bytes_per_step"],
        "broker": report["broker"]["kind"],
    }


def _evaluations(rows: list[Row]) -> list[float]:
    return [float(row["evaluation"]) for row in rows]


if __name__ == "__main__":
    main()
