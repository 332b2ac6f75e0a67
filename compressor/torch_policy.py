"""Between torch and the compressor's blocks, both ways: read `TorchPolicy` first.

What learns is torch and what is written is numpy. The learner exports its own network; whatever trains a policy on its
way into a file (a student, a pruned network, one that learns to be rounded) makes torch of a `PolicyGraph`, trains it,
and makes a graph of it again.
"""

from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.layer import (
    Activation,
    Block,
    Convolution,
    Flatten,
    Layer,
    MaxPool,
    Relu,
    Residual,
    UnsupportedPolicyError,
)
from compressor.memory import Gru, Lstm, Memory
from compressor.policy_graph import LARGEST_PIXEL, OBSERVATION_CLIP, PolicyGraph
from compressor.rounding import ROUNDINGS
from compressor.torch_modules import FlattenChannelsLast, RecurrentMemory, ResidualBlock, SamePool
from compressor.tower import Tower

ModuleT = TypeVar("ModuleT", nn.Linear, nn.Conv2d)

_ACTIVATIONS: Final[dict[Activation, type[nn.Module]]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class TorchPolicy(nn.Module):
    """A policy that can be trained: the same function as its graph's.

    Args:
        graph: The policy; its arrays are copied.

    Attributes:
        torso: From what the policy sees to features.
        memory: Between them and the heads; None without one.
        heads: By name; a `log_std` that does not depend on the state is a parameter without weights, and not here.

    Raises:
        UnsupportedPolicyError: A pool of another kind than torch has here.
    """

    observation_shift: Tensor | None
    observation_scale: Tensor | None

    def __init__(self, graph: PolicyGraph) -> None:
        super().__init__()
        self.graph = graph
        self.torso = make_tower(graph.torso)
        self.value_torso = None if graph.value_torso is None else make_tower(graph.value_torso)
        self.memory = None if graph.memory is None else _make_memory(graph.memory)
        self.heads = nn.ModuleDict({name: _make_layer(head) for name, head in graph.heads.items()})
        self.value: nn.Module | None = None if graph.value_head is None else _make_layer(graph.value_head)
        if "log_std" in graph.heads and not graph.heads["log_std"].weight.any():
            self.heads["log_std"].get_parameter("weight").requires_grad_(False)  # it depends on no state, and stays so
        for name in ("observation_shift", "observation_scale"):
            array: NDArray[np.float32] | None = getattr(graph, name)
            self.register_buffer(name, None if array is None else torch.from_numpy(array.copy()))

    def forward(
        self, observations: Tensor, state: Tensor | None = None, is_first: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Run the policy.

        Args:
            observations: float32 `[..., D]` or uint8 `[..., height, width, channels]`, as the environment gives them;
                with a memory the leading axes are `[T, B]`.
            state: The memory's state before the first row, float32 `[B, H]`; None for zeros.
            is_first: bool `[T, B]`: the memory forgets before this row.

        Returns:
            float32 `[..., out]` by name: the heads, `value` where the policy has one, and with a memory `state_out`,
            the states after each row.
        """
        leading = observations.shape[: -len(self.graph.observation_shape)]
        seen = self.normalise(observations.reshape(-1, *self.graph.observation_shape))
        features = self.torso(seen).reshape(*leading, -1)
        outputs: dict[str, Tensor] = {}
        if self.memory is not None:
            features, outputs["state_out"] = self.memory(features, state, is_first)
        for name, head in self.heads.items():
            outputs[name] = head(features)
        if self.value is not None:
            own = features if self.value_torso is None else self.value_torso(seen).reshape(*leading, -1)
            outputs["value"] = self.value(own)
        return outputs

    def normalise(self, observations: Tensor) -> Tensor:
        """What the first block sees: float32 `[N, D]`, or `[N, C, H, W]`."""
        if self.graph.image_shape is not None:
            dtype = next(self.parameters()).dtype
            return observations.to(dtype).div(LARGEST_PIXEL).permute(0, 3, 1, 2)
        if self.observation_shift is None or self.observation_scale is None:
            return observations
        return ((observations - self.observation_shift) * self.observation_scale).clamp(
            -OBSERVATION_CLIP, OBSERVATION_CLIP
        )

    def to_graph(self) -> PolicyGraph:
        """The policy as it is now: arrays are copies that later training does not touch."""
        return replace(
            self.graph,
            torso=export_tower(self.torso),
            value_torso=None if self.value_torso is None else export_tower(self.value_torso),
            memory=None if self.memory is None else export_memory(self.memory),
            heads={name: export_layer(layer_in(head)) for name, head in self.heads.items()},
            value_head=None if self.value is None else export_layer(layer_in(self.value)),
            observation_shift=None if self.observation_shift is None else as_numpy(self.observation_shift),
            observation_scale=None if self.observation_scale is None else as_numpy(self.observation_scale),
        )


# --- to torch --------------------------------------------------------------------------------------------------------


def make_tower(tower: Tower) -> nn.Sequential:
    """An encoder of these blocks; images are channels last in memory."""
    modules = [module for block in tower for module in _make_block(block)]
    return nn.Sequential(*modules).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _make_block(block: Block) -> list[nn.Module]:
    match block:
        case Layer():
            return [_make_layer(block), *_activation(block.activation)]
        case Convolution():
            return [_make_convolution(block), *_activation(block.activation)]
        case Residual():
            return [_make_residual(block)]
        case MaxPool():
            if (block.size, block.stride) != (SamePool.size, SamePool.stride):
                raise UnsupportedPolicyError(f"a pool of {block.size} by {block.stride} cannot be trained: use 3 by 2")
            return [SamePool()]
        case Relu():
            return [nn.ReLU()]
        case Flatten():
            return [FlattenChannelsLast()]


def _activation(activation: Activation | None) -> list[nn.Module]:
    return [] if activation is None else [_ACTIVATIONS[activation]()]


def _make_layer(layer: Layer) -> nn.Linear:
    outputs, inputs = layer.weight.shape
    return _with_parameters(nn.Linear(inputs, outputs), layer.weight, layer.bias)


def _make_convolution(block: Convolution) -> nn.Conv2d:
    outputs, height, width, inputs = block.weight.shape
    if block.padding == "same" and (block.stride, height % 2, width % 2) != (1, 1, 1):
        raise UnsupportedPolicyError(
            "a convolution with padding 'same' can be trained only with stride 1 and odd sides"
        )
    padding = (height // 2, width // 2) if block.padding == "same" else 0
    convolution = nn.Conv2d(inputs, outputs, (height, width), block.stride, padding)
    return _with_parameters(convolution, block.weight.transpose(0, 3, 1, 2), block.bias)


def _make_residual(block: Residual) -> ResidualBlock:
    module = ResidualBlock(block.second.bias.size, block.first.bias.size)
    module.first, module.second = _make_convolution(block.first), _make_convolution(block.second)
    return module


def _make_memory(memory: Memory) -> RecurrentMemory:
    kind = "lstm" if isinstance(memory, Lstm) else "gru"
    module = RecurrentMemory(kind, memory.weight_input.shape[1], memory.size)
    parts = {
        "weight_ih": memory.weight_input,
        "weight_hh": memory.weight_state,
        "bias_ih": memory.bias_input,
        "bias_hh": memory.bias_state,
    }
    module.cell.load_state_dict({name: torch.tensor(array) for name, array in parts.items()})
    return module


def _with_parameters(module: ModuleT, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> ModuleT:
    module.load_state_dict({"weight": torch.tensor(np.ascontiguousarray(weight)), "bias": torch.tensor(bias)})
    return module


# --- from torch ------------------------------------------------------------------------------------------------------


def export_tower(tower: nn.Sequential) -> tuple[Block, ...]:
    """The blocks of an encoder; an activation goes into the layer before it.

    Raises:
        UnsupportedPolicyError: No block of the compressor is such a module.
    """
    blocks: list[Block] = []
    for index, module in enumerate(tower):
        if isinstance(module, nn.Tanh | nn.ReLU):
            blocks[-1:] = _activated(blocks[-1], "tanh" if isinstance(module, nn.Tanh) else "relu")
        elif not isinstance(module, ROUNDINGS):  # the file rounds by itself
            blocks.append(_export_block(index, module))
    return tuple(blocks)


def _export_block(index: int, module: nn.Module) -> Block:
    match module:
        case nn.Linear():
            return export_layer(module)
        case nn.Conv2d():
            return _export_convolution(module)
        case SamePool():
            return MaxPool(size=module.size, stride=module.stride)
        case ResidualBlock():
            return Residual(*(_export_convolution(layer_in(part)) for part in (module.first, module.second)))
        case FlattenChannelsLast():
            return Flatten()
        case _:
            raise UnsupportedPolicyError(f"module {index} is a {type(module).__name__}, which no block is made from")


def layer_in(module: nn.Module) -> Any:  # noqa: ANN401 - a layer, of the kind that was there
    """A layer, which may stand among what rounds its inputs and outputs."""
    if not isinstance(module, nn.Sequential):
        return module
    return next(part for part in module if isinstance(part, nn.Linear | nn.Conv2d))


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


def _export_convolution(layer: nn.Conv2d) -> Convolution:
    assert layer.bias is not None  # noqa: S101 - ours all have one
    return Convolution(
        as_numpy(layer.weight.permute(0, 2, 3, 1)),
        as_numpy(layer.bias),
        stride=layer.stride[0],
        padding="same" if layer.padding[0] else "valid",
    )
