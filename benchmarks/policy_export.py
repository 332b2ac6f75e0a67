"""How long does a policy take from numpy arrays to the bytes of its file, and how many bytes are they?

Each network reads 16 normalised features and gives the logits of 6 actions; its value stays at home.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from benchmarks.report import Claim, Row, finish, parse_arguments
from compressor import Activation, Layer, PolicyGraph, Precision, compress

OBSERVATION_SIZE = 16
ACTIONS = 6
TORSOS = {"64x64": (64, 64), "256x256": (256, 256), "512x512x512": (512, 512, 512)}
GOAL_MS = 3.0

# Shaped like what the learner says of a policy, so that the bytes are honest.
METADATA = {
    "observation": {"shape": [OBSERVATION_SIZE], "dtype": "float32"},
    "action": {"kind": "discrete", "n": ACTIONS},
    "head": "categorical",
    "run_id": "0123456789abcdef",
    "policy_version": 1000,
}


def main() -> None:
    """Measure every network in every precision."""
    arguments = parse_arguments(__doc__)
    repeats = 50 if arguments.quick else 500
    rows = [_measure(torso, precision, repeats) for torso in TORSOS for precision in Precision]
    finish(arguments, rows, [_claim(rows)], packages=("numpy", "flatbuffers"))


def _measure(torso: str, precision: Precision, repeats: int) -> Row:
    graph = make_policy(TORSOS[torso], np.random.default_rng(0))
    metadata = {**METADATA, "recipe": str(precision)}
    export_ms = [compress(graph, precision=precision, metadata=metadata).export_ms for _ in range(repeats)]
    return {
        "network": torso,
        "precision": str(precision),
        "export_ms_p50": float(np.median(export_ms)),
        "export_ms_p99": float(np.percentile(export_ms, 99)),
        "bytes": len(compress(graph, precision=precision, metadata=metadata).model),
    }


def make_policy(sizes: Sequence[int], generator: np.random.Generator) -> PolicyGraph:
    """Return a random categorical policy with tanh layers of these sizes."""
    torso = [
        _random_layer(inputs, outputs, "tanh", generator) for inputs, outputs in pairwise([OBSERVATION_SIZE, *sizes])
    ]
    return PolicyGraph(
        torso=tuple(torso),
        heads={"logits": _random_layer(sizes[-1], ACTIONS, None, generator)},
        observation_shift=np.zeros(OBSERVATION_SIZE, np.float32),
        observation_scale=np.ones(OBSERVATION_SIZE, np.float32),
    )


def _random_layer(inputs: int, outputs: int, activation: Activation | None, generator: np.random.Generator) -> Layer:
    weight = generator.standard_normal((outputs, inputs), np.float32) / np.sqrt(np.float32(inputs))
    return Layer(weight, np.zeros(outputs, np.float32), activation)


def _claim(rows: Sequence[Row]) -> Claim:
    (row,) = (row for row in rows if (row["network"], row["precision"]) == ("64x64", Precision.INT8_DYNAMIC))
    return Claim.at_most("export of a 64x64 int8-dynamic policy, median ms", float(row["export_ms_p50"]), GOAL_MS)


if __name__ == "__main__":
    main()
