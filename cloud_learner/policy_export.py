"""From torch to the compressor's blocks: every array is a copy that later updates do not touch."""

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_learner.encoders import FlattenChannelsLast, ResidualBlock, SamePool
from cloud_learner.memory import RecurrentMemory
from compressor import Block, Convolution, Flatten, Gru, Layer, Lstm, MaxPool, Relu, Residual


def export_tower(tower: nn.Sequential) -> tuple[Block, ...]:
    """The blocks of an encoder; an activation goes into the layer before it."""
    blocks: list[Block] = []
    for module in tower:
        match module:
            case nn.Tanh() | nn.ReLU():
                blocks[-1:] = _activated(blocks[-1], "tanh" if isinstance(module, nn.Tanh) else "relu")
            case nn.Linear():
                blocks.append(export_layer(module))
            case nn.Conv2d():
                blocks.append(_convolution(module))
            case SamePool():
                blocks.append(MaxPool(size=module.size, stride=module.stride))
            case ResidualBlock():
                blocks.append(Residual(_convolution(module.first), _convolution(module.second)))
            case FlattenChannelsLast():
                blocks.append(Flatten())
            case _:
                raise TypeError(f"no block of the compressor is a {type(module).__name__}")
    return tuple(blocks)


def export_layer(layer: nn.Linear) -> Layer:
    """A dense layer without an activation."""
    return Layer(as_numpy(layer.weight), as_numpy(layer.bias))


def export_memory(memory: RecurrentMemory) -> Gru | Lstm:
    """The memory's cell; torch's order of gates is the compressor's."""
    cell = memory.cell
    kind = Lstm if isinstance(cell, nn.LSTMCell) else Gru
    return kind(*(as_numpy(part) for part in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)))


def as_numpy(tensor: Tensor) -> NDArray[np.float32]:
    """A float32 copy in numpy's order."""
    return np.array(tensor.detach().cpu().numpy(), np.float32, order="C")


def _activated(block: Block, activation: Literal["tanh", "relu"]) -> list[Block]:
    if isinstance(block, Layer | Convolution):
        return [replace(block, activation=activation)]
    return [block, Relu()]


def _convolution(layer: nn.Conv2d) -> Convolution:
    assert layer.bias is not None  # noqa: S101 - ours all have one
    return Convolution(
        as_numpy(layer.weight.permute(0, 2, 3, 1)),
        as_numpy(layer.bias),
        stride=layer.stride[0],
        padding="same" if layer.padding[0] else "valid",
    )
