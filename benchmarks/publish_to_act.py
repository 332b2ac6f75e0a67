"""How long does a policy take from its publication to the first step that acts with it, on loopback?

Taken from whole demos on CartPole-v1: while boards act and the learner learns on the same two cores. The agent's memory
and modules are looked at in the same runs.
"""

from typing import Any

from benchmarks.demo_runs import run_demo
from benchmarks.report import Claim, Row, finish, parse_arguments


def main() -> None:
    """Run a few demos."""
    arguments = parse_arguments(__doc__)
    reports = [
        run_demo("CartPole-v1", 475, seed=seed, time_limit_s=60) for seed in range(1, 2 if arguments.quick else 4)
    ]
    rows = [_row(seed, report) for seed, report in enumerate(reports, start=1)]
    claims = [
        Claim.at_most("publish to first action, worst p50, ms", max(float(row["p50_ms"]) for row in rows), 50),
        Claim.at_most("publish to first action, worst p99, ms", max(float(row["p99_ms"]) for row in rows), 200),
        Claim.at_most("agent with one worker, PSS in MB", max(float(row["agent_pss_mb"]) for row in rows), 160),
    ]
    finish(arguments, rows, claims, packages=("paho-mqtt", "ai-edge-litert"))


def _row(seed: int, report: dict[str, Any]) -> Row:
    act = report["policies"]["publish_to_act_ms"]
    return {
        "seed": seed,
        "policies": act["count"],
        "p50_ms": act["p50"],
        "p95_ms": act["p95"],
        "p99_ms": act["p99"],
        "max_ms": act["max"],
        "agent_pss_mb": max(board["pss_mb"] for board in report["boards"].values()),
    }


if __name__ == "__main__":
    main()
