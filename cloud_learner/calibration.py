"""Observations to calibrate static int8 policies with: recent ones, or likely ones before there are any."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cloud_learner.batching import Batch
from cloud_learner.encoders import IMAGE_AXES
from compressor import PolicyGraph

_VECTORS: Final = 512
_IMAGES: Final = 32


def recent_observations(batch: Batch) -> NDArray[Any]:
    """Observations spread over a batch, as the policy sees them: `[512, D]`, or `[32, height, width, channels]`."""
    seen = batch.observations.flatten(0, 1)
    wanted = _IMAGES if seen.ndim > IMAGE_AXES else _VECTORS
    picked = np.linspace(0, len(seen) - 1, min(wanted, len(seen))).round().astype(np.int64)
    return seen[picked].cpu().numpy()


def imagined_observations(graph: PolicyGraph) -> NDArray[Any]:
    """Observations for a policy that goes out before the first window has come: noise on the scale that it expects."""
    rng = np.random.default_rng(0)
    if graph.image_shape is not None:
        return rng.integers(0, 256, (_IMAGES, *graph.image_shape), np.uint8)
    noise = rng.standard_normal((_VECTORS, graph.observation_size), np.float32)
    if graph.observation_shift is None or graph.observation_scale is None:
        return noise
    return noise / graph.observation_scale + graph.observation_shift
