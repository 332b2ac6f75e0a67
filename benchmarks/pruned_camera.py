"""What does pruning and distilling take off a camera's policy that has learned its task, and what does it leave?

Nature-CNN that catches pixels (84x84, four frames): the checkpoint is learned once and kept. Each recipe makes a file
of it, and the files take turns, one observation at a time on one thread, on frames that the policy has met.
"""

from typing import Final

import numpy as np

from benchmarks.learned import learned
from benchmarks.report import Claim, Row, finish, parse_arguments
from benchmarks.steps import time_steps
from cloud_learner.saved_policy import SavedPolicy
from compressor import CompressionRecipe
from compressor.run_file import open_step
from edgerl.compression import Compression, compress_checkpoint
from edgerl.practice import Practice

TASK: Final = "Catch in pixels (CNN)"
RECIPES: Final = (
    *("float32", "int8-dynamic", "int8-full"),
    *("prune(0.5)+int8-dynamic", "prune(0.5)+qat+int8-full", "prune(0.75)+int8-dynamic"),
    "distill(16,32,32,128)+int8-dynamic",
)
SPEED, AGREEMENT = 2.0, 0.97
"""What pruning and distilling has to reach, at the same precision."""


def main() -> None:
    """Compress, measure in turns, and print."""
    arguments = parse_arguments(__doc__)
    steps, episodes, turns = (100, 20, 5) if arguments.quick else (1500, 100, 15)
    saved = SavedPolicy.load(learned(TASK))
    made: dict[str, Compression] = {}
    with Practice(saved.run, allowed=["edgerl_examples"]) as practice:
        for recipe in RECIPES:
            made[recipe] = compress_checkpoint(
                saved, CompressionRecipe.parse(recipe), practice, steps=steps, episodes=episodes
            )
            print(f"{recipe}: agreement {made[recipe].fidelity.agreement:.3f}", flush=True)
        visit = practice.visit(made["float32"].policy.model)
    seen = visit.observations.reshape(-1, *visit.observations.shape[2:])[:60]
    files = {recipe: open_step(compression.policy.model) for recipe, compression in made.items()}
    taken = {recipe: np.empty((turns, len(seen)), np.int64) for recipe in files}
    for turn in range(turns):
        for recipe, step in files.items():
            taken[recipe][turn] = time_steps(step, seen)
    p50 = {recipe: float(np.median(times[1:])) / 1e3 for recipe, times in taken.items()}
    rows = [_row(recipe, compression, p50) for recipe, compression in made.items()]
    finish(arguments, rows, _claims(rows, p50), packages=("torch", "ai-edge-litert", "torch-pruning", "numpy"))


def _row(recipe: str, compression: Compression, p50: dict[str, float]) -> Row:
    fidelity, returns = compression.fidelity, compression.returns
    return {
        "recipe": recipe,
        "p50_us": p50[recipe],
        "of_float32": p50["float32"] / p50[recipe],
        "agreement": fidelity.agreement,
        "where_clear": fidelity.agreement_where_clear,
        "kl": fidelity.kl_mean,
        "return": returns.mean_compressed if returns else None,
        "float": returns.mean_float if returns else None,
        "bytes": len(compression.policy.model),
        "training_s": compression.training_s,
    }


def _claims(rows: list[Row], p50: dict[str, float]) -> list[Claim]:
    smaller = [row for row in rows if "(" in str(row["recipe"])]
    good = [row for row in smaller if float(row["agreement"] or 0) >= AGREEMENT]
    gains = [_unpruned_us(str(row["recipe"]), p50) / p50[str(row["recipe"])] for row in good]
    return [
        Claim.at_least(
            f"fastest pruned or distilled file of {AGREEMENT:.0%} agreement, times", max(gains, default=0.0), SPEED
        )
    ]


def _unpruned_us(recipe: str, p50: dict[str, float]) -> float:
    """The same precision, with all of the network."""
    return p50[str(CompressionRecipe.parse(recipe).storage)]


if __name__ == "__main__":
    main()
