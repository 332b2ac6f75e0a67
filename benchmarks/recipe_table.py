"""What does each recipe cost policies that have learned their task, and what does it save?

A table as QuaRL has it (https://arxiv.org/abs/1910.01055), with intervals. For each task a fleet of two boards learns
it to its target, once; the checkpoint is kept. Then each recipe makes a file of it, which plays the same
seeds as the float32 file. Every cell is written as soon as it is measured, and not measured again: the command may be
interrupted and goes on where it was. `--fresh` begins anew.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any, Final

import gymnasium

from benchmarks.learned import learned
from benchmarks.report import Claim, Row, argument_parser, finish
from benchmarks.time_to_threshold import TASKS
from cloud_learner.saved_policy import SavedPolicy
from compressor import CompressionRecipe
from edgerl.compression import compress_checkpoint
from edgerl.practice import Practice

RECIPES: Final = ("float32", "float16", "int8-dynamic", "int8", "int8-full", "qat+int8-full")
NAMES: Final = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "InvertedPendulum-v5", "LunarLander-v3")
_FOLDER: Final = Path("benchmark-results/recipe-table")
_LARGEST_COST: Final = 0.02


def main() -> None:
    """Fill the table, cell by cell."""
    parser = argument_parser(__doc__)
    parser.add_argument("--task", choices=NAMES, help="only this task; all if left out")
    parser.add_argument("--episodes", type=int, help="pairs of episodes for each cell")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where cells are kept")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    arguments = parser.parse_args()
    if arguments.fresh:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    episodes = arguments.episodes or (20 if arguments.quick else 300)
    rows = [
        _cell(arguments.folder / name, name, recipe, episodes=episodes, steps=200 if arguments.quick else 2000)
        for name in ([arguments.task] if arguments.task else NAMES)
        for recipe in RECIPES
    ]
    finish(arguments, rows, _claims(rows), packages=("torch", "gymnasium", "ai-edge-litert"))


def _cell(folder: Path, name: str, text: str, *, episodes: int, steps: int) -> Row:
    """A recipe's row for a task: as it was measured before, or now."""
    kept = folder / f"{text}, {episodes} episodes.json"
    if not kept.is_file():
        saved = SavedPolicy.load(learned(name))
        folder.mkdir(parents=True, exist_ok=True)
        with Practice(saved.run, allowed=[]) as practice:
            made = compress_checkpoint(
                saved, CompressionRecipe.parse(text), practice, steps=steps, episodes=episodes
            ).as_dict()
        draft = kept.with_suffix(".draft")
        draft.write_text(json.dumps(_row(name, made)), encoding="utf-8")
        draft.replace(kept)
    row: Row = json.loads(kept.read_text(encoding="utf-8"))
    print(f"{name}, {text}: {row['return']:.1f}", flush=True)
    return row


def _row(name: str, made: dict[str, Any]) -> Row:
    fidelity, returns = made["fidelity"], made["returns"]
    head = fidelity["heads"].get("mean", {"range_error": math.nan})
    return {
        "task": name,
        "recipe": made["recipe"],
        "return": returns["mean_compressed"],
        "float": returns["mean_float"],
        "difference": returns["difference"],
        "low": returns["low"],
        "high": returns["high"],
        "kl": fidelity["kl_mean"],
        "agreement": fidelity["agreement"],
        "where_clear": fidelity["agreement_where_clear"],
        "mean_error": None if math.isnan(head["range_error"]) else head["range_error"],
        "saturation": fidelity["saturation"],
        "bytes": fidelity["bytes"],
        "step_us": fidelity["time"]["p50_us"],
        "load_ms": fidelity["time"]["load_ms"],
    }


def _random_return(name: str, *, episodes: int = 50) -> float:
    """Mean return of actions that are drawn without a policy."""
    environment = gymnasium.make(name)
    environment.action_space.seed(0)
    total = 0.0
    for seed in range(episodes):
        environment.reset(seed=seed)
        ended = False
        while not ended:
            _, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
            total += float(reward)
            ended = terminated or truncated
    environment.close()
    return total / episodes


def _claims(rows: list[Row]) -> list[Claim]:
    claims: list[Claim] = []
    for row in rows:
        if row["recipe"] != "int8-dynamic":
            continue
        task = str(row["task"])
        unit = TASKS[task].target - _random_return(task)
        claims += [
            Claim.at_most(f"{task}, int8-dynamic, mean KL", float(row["kl"] or 0), 1e-3),
            Claim.at_least(f"{task}, int8-dynamic, agreement where clear", float(row["where_clear"] or 0), 0.97),
            Claim.at_least(
                f"{task}, int8-dynamic, cost of (target - random)", float(row["difference"] or 0) / unit, -_LARGEST_COST
            ),
        ]
        if row["mean_error"] is not None:
            claims.append(
                Claim.at_most(f"{task}, int8-dynamic, mean error of its range", float(row["mean_error"]), 0.02)
            )
    return claims


if __name__ == "__main__":
    main()
