"""Find out where a policy's activations lie, by running it on observations from its environment.

Bounds of a space say nothing: a space may be endless, and a policy lives in a corner of it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from compressor.policy_graph import Observations, PolicyGraph
from compressor.windows import FloatArray

# So many values at a time (16 Atari frame stacks) keep a convolution's patches small.
_CHUNK_VALUES = 16 * 84 * 84 * 4


class CalibrationError(ValueError):
    """The observations cannot tell where activations lie: there are none, or they lead out of all bounds."""


class Range(NamedTuple):
    """The least and the largest value that a tensor has had."""

    low: float
    high: float


Ranges = Mapping[str, Range]


def calibrate(graph: PolicyGraph, observations: Observations | None) -> Ranges:
    """Run a policy in float32 and note the range of everything it computes.

    Args:
        graph: the policy.
        observations: float32 `[N, D]` or uint8 `[N, height, width, channels]`, as it meets them; at least one.

    Returns:
        A range for each name that `PolicyGraph.trace` shows.

    Raises:
        CalibrationError: there are no observations, or a range is not finite.
        ValueError: they are of another shape or dtype than the policy's.
    """
    if observations is None or not len(observations):
        raise CalibrationError(
            "static int8 needs observations to calibrate with, and none came: pass calibration=, a few hundred that "
            "the policy has met, or use int8-dynamic"
        )
    graph.check_observations(observations)
    ranges: dict[str, Range] = {}

    def widen(name: str, values: FloatArray) -> None:
        low, high = ranges.get(name, (np.inf, -np.inf))
        # numpy's minimum keeps NaN, and Python's min may lose it.
        ranges[name] = Range(float(np.minimum(low, values.min())), float(np.maximum(high, values.max())))

    chunk = max(1, _CHUNK_VALUES // graph.observation_size)
    for start in range(0, len(observations), chunk):
        graph.trace(graph.normalise(observations[start : start + chunk]).astype(np.float32), observe=widen)
    _require_finite(ranges)
    return ranges


def _require_finite(ranges: Ranges) -> None:
    for name, (low, high) in ranges.items():
        if not np.isfinite([low, high]).all():
            raise CalibrationError(
                f"the observations drive {name} to [{low}, {high}]: calibrate with finite ones that the policy has met"
            )
