"""How long does a policy take from numpy arrays to the bytes of its file, and how many bytes are they?

Vector policies read 16 normalised features, Nature-CNN a stack of four 84x84 frames; all give the logits of 6 actions,
and the value stays at home. Static precisions are calibrated within the export, with 256 vectors or 16 images.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.report import Claim, Row, finish, parse_arguments
from compressor import Activation, CompressionRecipe, Convolution, Flatten, Gru, Layer, PolicyGraph, Precision, compress

OBSERVATION_SIZE = 16
IMAGE = (84, 84, 4)
ACTIONS = 6
GRU_SIZE = 128
GOALS_MS = {"64x64": 3.0, "Nature-CNN": 60.0, "GRU 128": 10.0}


class Network(NamedTuple):
    """A policy to export, what to calibrate it with, and a share of the repeats that fits its size."""

    make: Callable[[np.random.Generator], PolicyGraph]
    calibration: npt.NDArray[Any]
    share: float = 1.0

    def precisions(self) -> list[Precision]:
        """Those that can hold it: a memory's state is float32."""
        has_memory = self.make(np.random.default_rng(0)).memory is not None
        return [precision for precision in Precision if not (has_memory and precision is Precision.INT8_FULL)]


def main() -> None:
    """Measure every network in every precision."""
    arguments = parse_arguments(__doc__)
    repeats = 50 if arguments.quick else 500
    rows = [
        _measure(name, network, precision, max(5, round(repeats * network.share)))
        for name, network in _networks().items()
        for precision in network.precisions()
    ]
    finish(arguments, rows, [_claim(rows, name) for name in GOALS_MS], packages=("numpy", "flatbuffers"))


def _networks() -> Mapping[str, Network]:
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((256, OBSERVATION_SIZE), np.float32)
    images = generator.integers(0, 256, (16, *IMAGE), np.uint8)
    return {
        "64x64": Network(lambda g: make_policy((64, 64), g), vectors),
        "256x256": Network(lambda g: make_policy((256, 256), g), vectors),
        "512x512x512": Network(lambda g: make_policy((512, 512, 512), g), vectors),
        "GRU 128": Network(_gru, vectors),
        "Nature-CNN": Network(_nature_cnn, images, share=0.1),
    }


def _measure(name: str, network: Network, precision: Precision, repeats: int) -> Row:
    graph = network.make(np.random.default_rng(0))
    # Shaped like what the learner says of a policy, so that the bytes are honest.
    metadata = {
        "observation": {"shape": list(graph.observation_shape), "dtype": str(network.calibration.dtype)},
        "action": {"kind": "discrete", "n": ACTIONS},
        "head": "categorical",
        "run_id": "0123456789abcdef",
        "policy_version": 1000,
        "recipe": str(precision),
    }
    policies = [
        compress(graph, CompressionRecipe(precision), metadata=metadata, calibration=network.calibration)
        for _ in range(repeats)
    ]
    export_ms = [policy.export_ms for policy in policies]
    return {
        "network": name,
        "precision": str(precision),
        "export_ms_p50": float(np.median(export_ms)),
        "export_ms_p99": float(np.percentile(export_ms, 99)),
        "bytes": len(policies[0].model),
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


def _gru(generator: np.random.Generator) -> PolicyGraph:
    rows = 3 * GRU_SIZE
    from_input, from_state = (_random_layer(GRU_SIZE, rows, None, generator) for _ in range(2))
    return PolicyGraph(
        torso=(_random_layer(OBSERVATION_SIZE, GRU_SIZE, "tanh", generator),),
        heads={"logits": _random_layer(GRU_SIZE, ACTIONS, None, generator)},
        memory=Gru(from_input.weight, from_state.weight, from_input.bias, from_state.bias),
        observation_shift=np.zeros(OBSERVATION_SIZE, np.float32),
        observation_scale=np.ones(OBSERVATION_SIZE, np.float32),
    )


def _nature_cnn(generator: np.random.Generator) -> PolicyGraph:
    return PolicyGraph(
        torso=(
            _random_convolution(IMAGE[2], 32, 8, 4, generator),
            _random_convolution(32, 64, 4, 2, generator),
            _random_convolution(64, 64, 3, 1, generator),
            Flatten(),
            _random_layer(7 * 7 * 64, 512, "relu", generator),
        ),
        heads={"logits": _random_layer(512, ACTIONS, None, generator)},
        image_shape=IMAGE,
    )


def _random_layer(inputs: int, outputs: int, activation: Activation | None, generator: np.random.Generator) -> Layer:
    weight = generator.standard_normal((outputs, inputs), np.float32) / np.sqrt(np.float32(inputs))
    return Layer(weight, np.zeros(outputs, np.float32), activation)


def _random_convolution(
    inputs: int, outputs: int, size: int, stride: int, generator: np.random.Generator
) -> Convolution:
    weight = generator.standard_normal((outputs, size, size, inputs), np.float32) / np.float32(size * inputs**0.5)
    return Convolution(weight, np.zeros(outputs, np.float32), stride, activation="relu")


def _claim(rows: Sequence[Row], network: str) -> Claim:
    (row,) = (row for row in rows if (row["network"], row["precision"]) == (network, Precision.INT8_DYNAMIC))
    name = f"export of a {network} int8-dynamic policy, median ms"
    return Claim.at_most(name, float(row["export_ms_p50"] or np.inf), GOALS_MS[network])


if __name__ == "__main__":
    main()
