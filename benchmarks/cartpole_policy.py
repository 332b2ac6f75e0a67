"""A 64x64 CartPole policy with random weights, and its file as a learner would publish it."""

import numpy as np
import torch
from msgspec import to_builtins

from cloud_learner.networks import ActorCritic
from compressor import CompressionRecipe, Precision, compress
from fleet_protocol.spaces import BoxSpec, DiscreteSpec

OBSERVATION = BoxSpec(shape=(4,), dtype="float32")
ACTION = DiscreteSpec(n=2)
WIRE_SCALE = 4 / 127


def make_network() -> ActorCritic:
    """The network, normaliser warmed up on random observations."""
    torch.manual_seed(0)
    network = ActorCritic(OBSERVATION, ACTION, [64, 64])
    with torch.no_grad():
        network.policy_head.weight.mul_(100)  # as decided as a trained policy, not as one at its first step
        network.normaliser.update(torch.from_numpy(observations(1000)))
    return network


def policy_file(network: ActorCritic, precision: Precision) -> bytes:
    """The `.tflite` bytes."""
    metadata: dict[str, object] = {
        "run_id": "benchmark",
        "policy_version": 1,
        "head": "categorical",
        "observation": to_builtins(OBSERVATION),
        "action": to_builtins(ACTION),
        "recipe": str(precision),
        "wire_scale": WIRE_SCALE,
    }
    return compress(network.to_graph(), CompressionRecipe(precision), metadata=metadata).model


def observations(count: int) -> np.ndarray:
    """CartPole-like observations, float32 `[count, 4]`."""
    scales = np.array([1.0, 1.5, 0.1, 1.5], np.float32)
    return np.random.default_rng(1).standard_normal((count, 4), np.float32) * scales
