"""Networks and windows of every kind, random but sound, for tests that promise something of all of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cloud_learner.config import MemoryKind, NetworkKind
from cloud_learner.networks import ActorCritic
from fleet_protocol.spaces import (
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    SpaceSpec,
    branches,
    head_size,
)
from fleet_protocol.trajectory import Trajectory

VECTOR = BoxSpec(shape=(3,), dtype="float32")
SMALL_IMAGE = BoxSpec(shape=(7, 10, 2), dtype="uint8")
IMAGE = BoxSpec(shape=(40, 37, 1), dtype="uint8")
THREE = DiscreteSpec(n=3)
PARTS = MultiDiscreteSpec(nvec=[3, 2, 4])
BITS = MultiBinarySpec(n=3)
ARM = BoxSpec(shape=(2, 2), dtype="float32")


@dataclass(frozen=True)
class Kind:
    """A kind of task and of network for it."""

    observation: BoxSpec = VECTOR
    action: SpaceSpec = THREE
    network: NetworkKind = "auto"
    memory: MemoryKind = "none"
    frame_stack: int = 1

    def __str__(self) -> str:
        action = type(self.action).__name__.removesuffix("Spec").lower()
        shape = "x".join(map(str, self.observation.shape))
        return f"{shape}-{self.network}-{self.memory}-{self.frame_stack}-{action}"


KINDS = [
    Kind(),
    Kind(action=ARM),
    Kind(action=PARTS, frame_stack=3),
    Kind(memory="gru"),
    Kind(memory="lstm", action=BITS, frame_stack=2),
    Kind(IMAGE, frame_stack=2),
    Kind(IMAGE, action=ARM, memory="gru"),
    Kind(SMALL_IMAGE, network="impala-resnet", frame_stack=2, action=PARTS),
    Kind(SMALL_IMAGE, network="impala-resnet", memory="lstm"),
]


def make_network_of(kind: Kind) -> ActorCritic:
    """A network with decided logits, whose normaliser has seen something."""
    torch.manual_seed(0)
    network = ActorCritic(
        kind.observation,
        kind.action,
        [8, 8],
        network=kind.network,
        memory=kind.memory,
        memory_size=6,
        frame_stack=kind.frame_stack,
    )
    with torch.no_grad():
        network.policy_head.weight.mul_(30)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    if kind.observation.dtype == "float32":
        size = 3 * kind.frame_stack
        network.normaliser.update(torch.randn(50, size) * torch.tensor([1.0, 30.0, 0.1]).repeat(kind.frame_stack) + 5)
    return network


def make_window_of(kind: Kind, *, unroll_length: int = 6, copies: int = 3, seed: int = 0, **changes: Any) -> Trajectory:
    """A window in which episodes begin and end in both ways, also with the last step."""
    rng = np.random.default_rng(seed)
    shape = (unroll_length, copies)
    truncated = rng.random(shape) < 0.25
    terminated = (rng.random(shape) < 0.15) & ~truncated
    ended = truncated | terminated
    is_first = np.concatenate([rng.random((1, copies)) < 0.5, ended[:-1]])
    final_steps = np.flatnonzero(truncated).astype(np.int32)
    state_size = make_state_size(kind)
    parts: dict[str, Any] = {
        "observations": random_observations(kind, rng, (unroll_length + kind.frame_stack, copies)),
        "rewards": rng.standard_normal(shape, np.float32),
        "terminated": terminated,
        "truncated": truncated,
        "is_first": is_first,
        "policy_versions": np.ones(unroll_length, np.int64),
        "final_steps": final_steps,
        "final_observations": random_observations(kind, rng, (final_steps.size,)),
        "frame_stack": kind.frame_stack,
        "initial_state": rng.uniform(-1, 1, (copies, state_size)).astype(np.float32) if state_size else None,
        **_behavior(kind.action, shape, rng),
    }
    parts["observations"][: kind.frame_stack - 1, is_first[0]] = parts["observations"][
        kind.frame_stack - 1, is_first[0]
    ]
    return Trajectory(**(parts | changes))


def make_state_size(kind: Kind) -> int:
    """H of the networks made here."""
    return {"none": 0, "gru": 6, "lstm": 12}[kind.memory]


def random_observations(kind: Kind, rng: np.random.Generator, leading: tuple[int, ...]) -> np.ndarray:
    """Single frames `[..., D]` or `[..., height, width, channels]`."""
    shape = (*leading, *kind.observation.shape)
    if kind.observation.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32) * 5


def _behavior(action: SpaceSpec, shape: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
    sizes, width = branches(action), head_size(action)
    if not sizes:
        return {
            "head": "gaussian",
            "actions": rng.standard_normal((*shape, width), np.float32),
            "behavior_params": rng.standard_normal((*shape, 2 * width)).astype(np.float16) / 4,
            "behavior_log_prob": rng.uniform(-6, -2, shape).astype(np.float32),
        }
    actions = np.stack([rng.integers(0, size, shape) for size in sizes], axis=-1).astype(np.uint8)
    return {
        "head": "categorical",
        "actions": actions[..., 0] if isinstance(action, DiscreteSpec) else actions,
        "behavior_params": rng.integers(-60, 60, (*shape, width - len(sizes))).astype(np.int8),
        "wire_scale": 0.02,
    }
