"""`python -m benchmarks [--quick]`: run every benchmark in turn, and keep the JSON in benchmark-results/."""

import json
import subprocess
import sys
from pathlib import Path

NAMES = ("board_step", "policy_export", "bytes_per_step", "publish_to_act", "time_to_threshold")
RESULTS = Path("benchmark-results")


def main() -> int:
    """Run all, and print every claim; the exit code is 1 if one does not hold."""
    RESULTS.mkdir(exist_ok=True)
    claims: list[dict[str, object]] = []
    for name in NAMES:
        print(f"\n== {name}", flush=True)
        result = RESULTS / f"{name}.json"
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:], "--json", str(result)], check=False)
        claims += json.loads(result.read_text(encoding="utf-8"))["claims"]
    print("\n== all claims")
    for claim in claims:
        print(
            f"{'holds' if claim['holds'] else 'FAILS'}  {claim['claim']}: {claim['value']:.4g} (goal {claim['goal']})"
        )
    return 0 if all(claim["holds"] for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
