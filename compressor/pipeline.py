"""From a policy to the file that boards run: read this first.

    PolicyGraph --- compress ---> CompressedPolicy --- measure_fidelity ---> FidelityReport

The learner calls `compress` at each publication. The file is the whole policy: normalisation, network and the
caller's description of both ends, so that a board needs the bytes and nothing of our code for networks.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from compressor.calibration import Ranges, calibrate
from compressor.layer import UnsupportedPolicyError
from compressor.policy_graph import Observations, PolicyGraph
from compressor.recipe import CompressionRecipe, Precision
from compressor.tflite_writer.policy import write_policy


@dataclass(frozen=True, slots=True)
class CompressedPolicy:
    """A policy as a file.

    Attributes:
        model: the `.tflite`.
        recipe: how it was made.
        export_ms: milliseconds from the arrays to the bytes.
        sha256: of the model, in hexadecimal.
    """

    model: bytes
    recipe: CompressionRecipe
    export_ms: float
    sha256: str


def compress(
    graph: PolicyGraph,
    recipe: CompressionRecipe,
    *,
    metadata: Mapping[str, object],
    calibration: Observations | None = None,
    ranges: Ranges | None = None,
) -> CompressedPolicy:
    """Write a policy as a `.tflite`, stored as the recipe says.

    The steps of a recipe that train have to be done before: `compressor.training` gives the graph that they end with.

    Args:
        graph: the policy; leave its value out unless a board needs it.
        recipe: how weights and activations are stored.
        metadata: what the file says of itself (observation and action spec, head, run, version, recipe); any
            JSON. A board finds it as the file's metadata `edgerl.policy`.
        calibration: what the policy has met lately, a few hundred observations as the environment gives them;
            read only where the recipe needs it.
        ranges: where activations lie, if that was learned; then nothing is calibrated.

    Returns:
        The file with its checksum; the same arguments give the same bytes.

    Raises:
        CalibrationError: the recipe needs observations that are not there, or are not finite.
        InvalidPolicyError: a weight does not fit into the precision.
        UnsupportedPolicyError: the precision cannot hold such a policy, or the recipe keeps a block that it has not.
        TypeError, ValueError: the metadata is not JSON, or the observations are not the policy's.
    """
    started_s = time.monotonic()
    if recipe.precision is Precision.INT8_FULL and graph.memory is not None:
        raise UnsupportedPolicyError(
            "int8-full has no memory: its state would be rounded at every step and drift; use int8 or int8-dynamic"
        )
    unknown = set(recipe.kept).difference(graph.weighted_blocks())
    if unknown:
        raise UnsupportedPolicyError(
            f"{recipe} keeps {', '.join(sorted(unknown))}, and the policy has no such layer: it has "
            f"{', '.join(graph.weighted_blocks())}"
        )
    if ranges is None:
        ranges = calibrate(graph, calibration) if recipe.needs_calibration else {}
    model = write_policy(graph, recipe, metadata=metadata, ranges=ranges)
    export_ms = 1e3 * (time.monotonic() - started_s)
    return CompressedPolicy(model, recipe, export_ms, hashlib.sha256(model).hexdigest())
