"""Smaller policies, before they have learned anything: narrower ones with new weights.

A student keeps what a board sees of a policy: its observations, its heads, the size of its memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from compressor.layer import Block, Convolution, Float32Array, Layer, Residual, Shape, UnsupportedPolicyError
from compressor.memory import Memory
from compressor.policy_graph import PolicyGraph
from compressor.tower import Tower

_HIDDEN_GAIN: Final = 2.0**0.5
_HEAD_GAIN: Final = 0.01
"""A student begins by preferring nothing, as policies do."""


def make_student(teacher: PolicyGraph, widths: Sequence[int], *, seed: int = 0) -> PolicyGraph:
    """Return a narrower policy of the teacher's kind, with new weights; a value reads the same features as the heads.

    Args:
        teacher: Gives what is seen, the heads, the memory's size, and the shapes of convolutions.
        widths: Of the torso's layers. A torso of dense layers may get any number of them; one with convolutions gets as
            many as it has, and residual blocks are as wide as what stands before them.
        seed: Of the weights.

    Raises:
        UnsupportedPolicyError: The number of widths does not fit a torso with convolutions.
    """
    new = _Weights(seed)
    if all(isinstance(block, Layer) for block in teacher.torso):
        blocks: Tower = tuple(teacher.torso[0] for _ in widths)
    else:
        blocks = teacher.torso
    wide = sum(isinstance(block, Layer | Convolution) for block in blocks)
    if wide != len(widths):
        raise UnsupportedPolicyError(
            f"distill({','.join(map(str, widths))}) gives {len(widths)} widths, but the policy's torso has {wide} "
            f"layers and convolutions: give {wide}"
        )
    shape = teacher.observation_shape
    torso: list[Block] = []
    remaining = iter(widths)
    for block in blocks:
        torso.append(_narrowed(block, shape, remaining, new))
        shape = torso[-1].output_shape("torso", shape)
    (features,) = shape
    memory = None if teacher.memory is None else _new_memory(teacher.memory, features, new)
    features = features if memory is None else memory.size
    return replace(
        teacher,
        torso=tuple(torso),
        memory=memory,
        heads={name: _new_head(head, features, new) for name, head in teacher.heads.items()},
        value_head=None if teacher.value_head is None else Layer(new((1, features), gain=1.0), np.zeros(1, np.float32)),
        value_torso=None,
    )


class _Weights:
    """Makes orthogonal matrices (Saxe et al. 2013, https://arxiv.org/abs/1312.6120)."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, shape: Shape, *, gain: float = _HIDDEN_GAIN) -> Float32Array:
        """Return float32 weights; the first axis counts the outputs."""
        rows, columns = shape[0], int(np.prod(shape[1:]))
        q, r = np.linalg.qr(self._generator.standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diagonal(r))
        return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(np.float32)


def _narrowed(block: Block, shape: Shape, widths: Iterator[int], new: _Weights) -> Block:
    """The block with other widths: what reaches it has this shape."""
    match block:
        case Layer():
            width = next(widths)
            return Layer(new((width, shape[0])), np.zeros(width, np.float32), block.activation)
        case Convolution():
            return _new_convolution(block, shape[2], next(widths), new)
        case Residual():
            channels = shape[2]
            parts = (_new_convolution(part, channels, channels, new) for part in (block.first, block.second))
            return Residual(*parts)
        case _:
            return block


def _new_convolution(block: Convolution, channels: int, width: int, new: _Weights) -> Convolution:
    _, height, columns, _ = block.weight.shape
    weight = new((width, height, columns, channels))
    return replace(block, weight=weight, bias=np.zeros(width, np.float32))


def _new_memory(memory: Memory, features: int, new: _Weights) -> Memory:
    """As wide as the teacher's: a board's state is as long as before."""
    rows, size = memory.weight_state.shape
    weights = new((rows, features), gain=1.0), new((rows, size), gain=1.0)
    return type(memory)(*weights, np.zeros(rows, np.float32), np.zeros(rows, np.float32))


def _new_head(head: Layer, features: int, new: _Weights) -> Layer:
    actions = head.bias.size
    if not head.weight.any():  # depends on no state
        return Layer(np.zeros((actions, features), np.float32), head.bias.copy())
    return Layer(new((actions, features), gain=_HEAD_GAIN), np.zeros(actions, np.float32))
