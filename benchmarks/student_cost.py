"""What does a student beside the learner cost an update?

Paced boards (50 Hz) and a learner on one thread, with and without a student, in turns. An update's time is as the
run's report has it: from the batch to the acks, and what the student took of it.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.programs import program
from benchmarks.report import Claim, Row, finish, parse_arguments
from edgerl.broker import start_broker

RECIPES: Final = ("int8-dynamic", "distill(32,32)+int8-dynamic", "distill(32,32)+qat+int8-dynamic")
BOARDS: Final = 2
RUN: Final = ("--control-hz", "50", "--unroll-length", "16", "--batch-windows", "2", "--threads", "1")


def main() -> None:
    """Measure in turns, and print."""
    arguments = parse_arguments(__doc__)
    turns, seconds = (1, 15.0) if arguments.quick else (3, 40.0)
    rows: list[Row] = [_row(recipe, seconds, turn) for turn in range(turns) for recipe in RECIPES]
    plain, *taught = (
        float(np.median([float(row["update_p50_ms"] or 0) for row in rows if row["recipe"] == recipe]))
        for recipe in RECIPES
    )
    claims = [
        Claim.at_most(f"{recipe}: an update, with its student / without one", one / plain, 1.10)
        for recipe, one in zip(RECIPES[1:], taught, strict=True)
    ]
    finish(arguments, rows, claims, packages=("torch", "gymnasium", "ai-edge-litert"))


def _row(recipe: str, seconds: float, turn: int) -> Row:
    with tempfile.TemporaryDirectory() as name, start_broker(None) as broker:
        folder = Path(name)
        where = ("--broker", str(broker.address))
        report = folder / "report.json"
        flags = (*RUN, "--recipe", recipe, "--time-limit-s", str(seconds), "--evaluation-episodes", "0")
        kept = ("--state", str(folder / "state"), "--report", str(report), "--seed", str(turn))
        boards = [program("edge_actor", *where, "--board", f"b{n}", "--state", "") for n in range(BOARDS)]
        with boards[0], boards[1], program("cloud_learner", *where, *flags, *kept) as learner:
            learner.wait(seconds + 60)
        said: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    update = said["learner"]["update_ms"]
    return {
        "recipe": recipe,
        "update_p50_ms": update["p50"],
        "update_p95_ms": update["p95"],
        "updates": said["learner_updates"],
        "busy_ratio": said["learner"]["busy_ratio"],
        "stand_ins": said["policies"]["stand_ins"],
        "published": said["policies"]["published"],
        "bytes": said["policies"]["bytes"],
    }


if __name__ == "__main__":
    main()
