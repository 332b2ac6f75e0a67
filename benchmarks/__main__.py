"""`python -m benchmarks [--quick]`: run every benchmark in turn, and keep the JSON in benchmark-results/."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

NAMES: Final = (
    *("board_step", "network_step", "actor_cost", "policy_export", "bytes_per_step"),
    *("frame_signing", "publish_to_act", "agent_memory", "real_time", "delivery_overhead"),
    *("disk_writes", "thundering_herd", "soak", "student_cost", "pruned_camera", "recipe_table", "time_to_threshold"),
)
RESULTS: Final = Path("benchmark-results")


def main() -> int:
    """Run all, and print every claim; the exit code is 1 if one does not hold."""
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    parser.add_argument("--quick", action="store_true", help="the same questions with fewer repeats")
    flags = ["--quick"] if parser.parse_args().quick else []
    RESULTS.mkdir(exist_ok=True)
    claims = [(name, claim) for name in NAMES for claim in _claims(name, flags)]
    print("\n== all claims")
    for name, claim in claims:
        value = "none" if claim["value"] is None else f"{claim['value']:.4g}"
        print(f"{'holds' if claim['holds'] else 'FAILS'}  {name}: {claim['claim']}: {value} (goal {claim['goal']})")
    return 0 if all(claim["holds"] for _, claim in claims) else 1


def _claims(name: str, flags: list[str]) -> list[dict[str, Any]]:
    """Run one benchmark; one that crashes counts as a claim that fails."""
    print(f"\n== {name}", flush=True)
    result = RESULTS / f"{name}.json"
    result.unlink(missing_ok=True)  # what an earlier run wrote must never pass for this one's
    command = [sys.executable, "-m", f"benchmarks.{name}", *flags, "--json", str(result)]
    exit_code = subprocess.run(command, check=False).returncode
    if exit_code or not result.is_file():
        return [{"claim": "ran to its end, exit code", "value": exit_code, "goal": "0", "holds": False}]
    return json.loads(result.read_text(encoding="utf-8"))["claims"]


if __name__ == "__main__":
    sys.exit(main())
