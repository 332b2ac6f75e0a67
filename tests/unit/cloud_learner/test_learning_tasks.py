"""It learns: what only a memory can know, what only an image shows, and actions of several parts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cloud_learner.algorithms.impala import Impala
from cloud_learner.batching import make_batch
from cloud_learner.config import LearnerSettings, MemoryKind
from cloud_learner.networks import ActorCritic
from fleet_protocol.spaces import BoxSpec, DiscreteSpec, MultiDiscreteSpec, SpaceSpec, branches
from fleet_protocol.trajectory import Trajectory

CPU = torch.device("cpu")
COPIES = 32
Task = Callable[[np.random.Generator], tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]]
"""Gives the observations `[T, N, ...]` of episodes that fill a window, and what actions `[T, N, K]` earn."""


def recall(rng: np.random.Generator) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """A cue at the first of four steps; at the last one, which looks the same for all, the action must repeat it."""
    cues = rng.integers(0, 2, COPIES)
    observations = np.zeros((4, COPIES, 2), np.float32)
    observations[0, :, 0] = 2 * cues - 1
    observations[3, :, 1] = 1
    return observations, lambda actions: np.concatenate([np.zeros((3, COPIES)), actions[3:, :, 0] == cues])


def brighter_side(rng: np.random.Generator) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Noise with a bright patch in one half of the image: name the half."""
    sides = rng.integers(0, 2, (1, COPIES))
    images = rng.integers(0, 100, (1, COPIES, 36, 36, 1), np.uint8)
    for copy, side in enumerate(sides[0]):
        row, column = rng.integers(0, 26), rng.integers(0, 8) + 18 * side
        images[0, copy, row : row + 10, column : column + 10] += 120
    return images, lambda actions: actions[:, :, 0] == sides


def two_dials(rng: np.random.Generator) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Each part of the action follows a feature of its own, and pays for itself."""
    signs = rng.integers(0, 2, (4, COPIES, 2))
    wanted = signs * [2, 1]
    return (2 * signs - 1).astype(np.float32), lambda actions: (actions == wanted).mean(axis=-1)


def learn(task: Task, network: ActorCritic, action: SpaceSpec, *, updates: int, learning_rate: float) -> float:
    """Play and learn, and return the share of the highest return in the last ten windows."""
    rng, sizes = np.random.default_rng(0), branches(action)
    algorithm = Impala(network, LearnerSettings(learning_rate=learning_rate))
    shares: list[float] = []
    for _ in range(updates):
        observations, earn = task(rng)
        window = play(observations, earn, network, sizes)
        algorithm.update(make_batch([window], CPU, sizes))
        shares.append(float(window.rewards.sum() / earn_all(earn, observations, sizes)))
    return float(np.mean(shares[-10:]))


def play(
    observations: np.ndarray, earn: Callable[[np.ndarray], np.ndarray], network: ActorCritic, sizes: Any
) -> Trajectory:
    length = len(observations)
    size = network.memory.state_size if network.memory is not None else 0
    with torch.no_grad():
        params = network(torch.from_numpy(observations)).params
    levels = torch.cat([(logits - logits[..., :1])[..., 1:] for logits in params.split(list(sizes), -1)], -1) / 0.05
    levels = levels.round().clamp(-127, 127)
    at, drawn = 0, []
    for choices in sizes:
        own = torch.nn.functional.pad(levels[..., at : at + choices - 1] * 0.05, (1, 0))
        drawn.append(torch.distributions.Categorical(logits=own).sample())
        at += choices - 1
    actions = torch.stack(drawn, -1).numpy().astype(np.uint8)
    ended = np.zeros((length, COPIES), np.bool_)
    ended[-1] = True
    return Trajectory(
        head="categorical",
        observations=np.concatenate([observations, observations[:1]]),
        actions=actions[..., 0] if len(sizes) == 1 else actions,
        rewards=earn(actions).astype(np.float32),
        terminated=ended,
        truncated=~ended & False,
        is_first=np.roll(ended, 1, axis=0),
        behavior_params=levels.numpy().astype(np.int8),
        wire_scale=0.05,
        policy_versions=np.ones(length, np.int64),
        final_steps=np.empty(0, np.int32),
        final_observations=observations[0, :0],
        initial_state=np.zeros((COPIES, size), np.float32) if size else None,
    )


def earn_all(earn: Callable[[np.ndarray], np.ndarray], observations: np.ndarray, sizes: Any) -> float:
    """What the best actions would have earned: each part tried alone with each choice, the best one at each step."""
    shape = (len(observations), COPIES, len(sizes))
    best = np.stack([earn(np.full(shape, choice)) for choice in range(max(sizes))])
    return float(best.max(axis=0).sum()) if len(sizes) == 1 else float(np.prod(shape[:2]))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("memory", ["gru", "lstm"])
def test_a_memory_recalls_a_cue_that_has_gone(memory: MemoryKind):
    action = DiscreteSpec(n=2)
    network = ActorCritic(BoxSpec(shape=(2,), dtype="float32"), action, [16], memory=memory, memory_size=16)
    assert learn(recall, network, action, updates=80, learning_rate=0.01) > 0.95


def test_without_a_memory_the_cue_is_lost():
    action = DiscreteSpec(n=2)
    network = ActorCritic(BoxSpec(shape=(2,), dtype="float32"), action, [16])
    assert 0.35 < learn(recall, network, action, updates=80, learning_rate=0.01) < 0.65


def test_an_image_is_read():
    action = DiscreteSpec(n=2)
    network = ActorCritic(BoxSpec(shape=(36, 36, 1), dtype="uint8"), action, [])
    assert learn(brighter_side, network, action, updates=50, learning_rate=0.001) > 0.9


def test_each_part_of_an_action_is_learned():
    action = MultiDiscreteSpec(nvec=[3, 2])
    network = ActorCritic(BoxSpec(shape=(2,), dtype="float32"), action, [16])
    assert learn(two_dials, network, action, updates=60, learning_rate=0.01) > 0.95
