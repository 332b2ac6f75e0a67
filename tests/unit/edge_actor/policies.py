"""Small policies as files, for tests of the board's side."""

import numpy as np
from msgspec import to_builtins

from compressor import CompressionRecipe, Layer, PolicyGraph, Precision, compress
from edge_actor.board_files import BoardFiles
from edge_actor.policy_shelf import PolicyShelf
from edge_actor.quarantine import Quarantine
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, SpaceSpec, branches, head_size


def make_shelf() -> PolicyShelf:
    """A shelf that keeps nothing on disk."""
    return PolicyShelf(Quarantine(BoardFiles(None, count=lambda *_: None)))


def make_policy_file(
    *,
    observation_size: int = 2,
    action: SpaceSpec | None = None,
    policy_version: int = 1,
    seed: int = 0,
    wire_scale: float = 0.05,
    frame_stack: int = 1,
) -> bytes:
    """A random policy: logits for a discrete space, mean and log_std for a box."""
    action = action or DiscreteSpec(n=3)
    rng = np.random.default_rng(seed)

    def layer(inputs: int, outputs: int, activation: str | None = None) -> Layer:
        weight = rng.standard_normal((outputs, inputs), np.float32)
        return Layer(weight, rng.standard_normal(outputs, np.float32), activation)  # pyright: ignore[reportArgumentType]

    size = head_size(action)
    if branches(action):
        heads = {"logits": layer(8, size)}
    else:
        log_std = Layer(np.zeros((size, 8), np.float32), np.full(size, -1, np.float32))
        heads = {"mean": layer(8, size), "log_std": log_std}
    metadata: dict[str, object] = {
        "run_id": "r",
        "policy_version": policy_version,
        "head": "categorical" if branches(action) else "gaussian",
        "observation": to_builtins(BoxSpec(shape=(observation_size,), dtype="float32")),
        "action": to_builtins(action),
        "wire_scale": wire_scale,
        "frame_stack": frame_stack,
    }
    graph = PolicyGraph(torso=(layer(observation_size * frame_stack, 8, "tanh"),), heads=heads)
    return compress(graph, CompressionRecipe(Precision.INT8_DYNAMIC), metadata=metadata).model
