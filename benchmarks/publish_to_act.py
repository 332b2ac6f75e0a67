"""How long does a policy take from its publication to the first step that acts with it, on loopback?

Taken from whole demos on CartPole-v1: while two boards act and the learner learns on the same cores. A policy that a
newer one overtook on its way never acted, and is not among the swaps.
"""

from typing import Any

from benchmarks.demo_runs import run_demo
from benchmarks.report import Claim, finish, parse_arguments


def main() -> None:
    """Run a few demos."""
    arguments = parse_arguments(__doc__)
    seeds = range(1, 2 if arguments.quick else 4)
    rows = [
        _row(seed, run_demo(["--env", "CartPole-v1", "--target-return", "475"], seed=seed, time_limit_s=60))
        for seed in seeds
    ]
    claims = [
        Claim.at_most("publish to first action, worst run's p50, ms", max(row["p50_ms"] for row in rows), 50),
        Claim.at_most("publish to first action, worst run's p99, ms", max(row["p99_ms"] for row in rows), 200),
    ]
    finish(arguments, rows, claims, packages=("paho-mqtt", "ai-edge-litert"))


def _row(seed: int, report: dict[str, Any]) -> dict[str, float]:
    act = report["policies"]["publish_to_act_ms"]
    return {
        "seed": seed,
        "published": report["policies"]["published"],
        "swaps": act["count"],
        "p50_ms": act["p50"],
        "p95_ms": act["p95"],
        "p99_ms": act["p99"],
        "max_ms": act["max"],
    }


if __name__ == "__main__":
    main()
