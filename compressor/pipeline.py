"""From a policy to the file that boards run: read this first.

    PolicyGraph --- compress ---> CompressedPolicy --- measure_fidelity ---> FidelityReport

The learner calls `compress` at each publication. The file is the whole policy: normalisation, network and the
caller's description of both ends, so that a board needs the bytes and nothing of our code for networks.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from compressor.calibration import calibrate
from compressor.layer import UnsupportedPolicyError
from compressor.policy_graph import Observations, PolicyGraph
from compressor.recipe import Precision, WeightScales
from compressor.tflite_writer.policy import write_policy


@dataclass(frozen=True, slots=True)
class CompressedPolicy:
    """A policy as a file.

    Attributes:
        model: the `.tflite`.
        precision: how its weights are stored.
        export_ms: milliseconds from the arrays to the bytes.
        sha256: of the model, in hexadecimal.
    """

    model: bytes
    precision: Precision
    export_ms: float
    sha256: str


def compress(
    graph: PolicyGraph,
    *,
    precision: Precision,
    metadata: Mapping[str, object],
    weight_scales: WeightScales = WeightScales.PER_CHANNEL,
    calibration: Observations | None = None,
) -> CompressedPolicy:
    """Write a policy as a `.tflite` in the given precision.

    Args:
        graph: the policy; leave its value out unless a board needs it.
        precision: how weights and activations are stored.
        metadata: what the file says of itself (observation and action spec, head, run, version, recipe); any
            JSON. A board finds it as the file's metadata `edgerl.policy`.
        weight_scales: per tensor only for runtimes that cannot read a scale per row.
        calibration: what the policy has met lately, a few hundred observations as the environment gives them;
            read only where the precision needs it.

    Returns:
        The file with its checksum; the same arguments give the same bytes.

    Raises:
        CalibrationError: the precision needs observations that are not there, or are not finite.
        InvalidPolicyError: a weight does not fit into the precision.
        UnsupportedPolicyError: the precision cannot hold such a policy.
        TypeError, ValueError: the metadata is not JSON, or the observations are not the policy's.
    """
    started_s = time.monotonic()
    if precision is Precision.INT8_FULL and graph.memory is not None:
        raise UnsupportedPolicyError(
            "int8-full has no memory: its state would be rounded at every step and drift; use int8 or int8-dynamic"
        )
    ranges = calibrate(graph, calibration) if precision.needs_calibration else {}
    model = write_policy(graph, precision=precision, weight_scales=weight_scales, metadata=metadata, ranges=ranges)
    export_ms = 1e3 * (time.monotonic() - started_s)
    return CompressedPolicy(model, precision, export_ms, hashlib.sha256(model).hexdigest())
