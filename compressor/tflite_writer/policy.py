"""Write a policy: from `PolicyGraph` to operators. Read this first, then `blocks.py` and `memory.py`.

Normalisation of vectors is SUB and MUL, in float32 whatever the precision, because features may differ by orders of
magnitude: folded into int8 weights, the largest would leave the others no bits. Division by 255 of images is the
scale of the input tensor.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from compressor.calibration import Range, Ranges
from compressor.layer import Convolution, Layer, Residual
from compressor.memory import Memory
from compressor.policy_graph import LARGEST_PIXEL, OBSERVATION_CLIP, PolicyGraph
from compressor.quantization import SMALLEST_INT8, Quantization
from compressor.recipe import CompressionRecipe, Precision, WeightScales
from compressor.tflite_writer.arithmetic import (
    Arithmetic,
    FloatArithmetic,
    Signal,
    StaticArithmetic,
    float_arithmetic,
)
from compressor.tflite_writer.blocks import BlockWriter
from compressor.tflite_writer.builder import BATCH, GraphBuilder
from compressor.tflite_writer.memory import write_memory
from compressor.tflite_writer.operations import MULTIPLY, SUBTRACT
from compressor.tflite_writer.schema import FusedActivation, TensorType
from compressor.tflite_writer.serializer import serialize
from compressor.tower import Tower, named_blocks

OBSERVATION = "observation"
METADATA_NAME = "edgerl.policy"
_NORMALISED = "normalised"


_EXACT: Final = float_arithmetic(Precision.FLOAT32, WeightScales.PER_CHANNEL)


class _Plan(NamedTuple):
    """Which part of a policy computes how, but for the blocks that are kept in float32."""

    first: Arithmetic
    others: Arithmetic
    memory: FloatArithmetic
    heads: Arithmetic
    kept: frozenset[str] = frozenset()

    def where_kept(self, name: str, arithmetic: Arithmetic) -> Arithmetic:
        """The arithmetic of a block that would have this one."""
        return _EXACT if name in self.kept else arithmetic


def write_policy(
    graph: PolicyGraph,
    recipe: CompressionRecipe,
    *,
    metadata: Mapping[str, object],
    ranges: Ranges,
) -> bytes:
    """Write the policy as a `.tflite`.

    Args:
        graph: the policy.
        recipe: how weights and activations are stored; vectors, states and outputs are float32 always.
        metadata: what the file says of itself, written as JSON under `edgerl.policy`.
        ranges: where activations lie, from `compressor.calibration`; empty unless the recipe needs them.

    Returns:
        The file. Its inputs are `observation` `[batch, D]` or `[batch, height, width, channels]` and, with a memory,
        `state_in` `[batch, state_size]`; its outputs are the policy's heads and `value`, each `[batch, out]`, and
        `state_out`.

    Raises:
        InvalidPolicyError: a weight does not fit into the precision.
    """
    model = GraphBuilder()
    writer = _PolicyWriter(model, _plan(recipe, ranges)._replace(kept=frozenset(recipe.kept)))
    observation = writer.observation(graph, int8_images=recipe.precision is Precision.INT8_FULL)
    features = writer.tower("torso", _widen(graph, graph.torso), observation)
    states: list[int] = []
    if graph.memory is not None:
        features, state_out = writer.memory(graph.memory, features)
        states.append(state_out)
    model.outputs += [writer.head(name, head, features) for name, head in graph.named_heads()]
    if graph.value_head is not None and graph.value_torso is not None:
        own = writer.tower("value_torso", _widen(graph, graph.value_torso), observation)
        model.outputs.append(writer.head("value", graph.value_head, own))
    model.outputs += states
    return serialize(model, metadata={METADATA_NAME: as_json(metadata)})


@dataclass(frozen=True, slots=True)
class _PolicyWriter:
    model: GraphBuilder
    plan: _Plan

    def observation(self, graph: PolicyGraph, *, int8_images: bool) -> Signal:
        """Declare the input, and return what the first block reads."""
        if graph.image_shape is None:
            index = _normalise(self.model, graph, self.model.input(OBSERVATION, (BATCH, graph.observation_size)))
            return _settled(self.model.tensors[index].name, index)
        kind = TensorType.INT8 if int8_images else TensorType.UINT8
        pixels = Quantization(np.float32(1 / LARGEST_PIXEL), SMALLEST_INT8 if int8_images else 0)
        shape = (BATCH, *graph.image_shape)
        return _settled(OBSERVATION, self.model.input(OBSERVATION, shape, kind=kind, quantization=pixels))

    def tower(self, name: str, tower: Tower, signal: Signal) -> Signal:
        """Add blocks one behind the other; the first with weights may compute differently from the others."""
        arithmetic = self.plan.first
        for block_name, block in named_blocks(name, tower):
            own = self.plan.where_kept(block_name, arithmetic)
            signal = BlockWriter(self.model, own).write(block_name, block, signal)
            if isinstance(block, Layer | Convolution | Residual):
                arithmetic = self.plan.others
        return signal

    def memory(self, memory: Memory, features: Signal) -> tuple[Signal, int]:
        """Add the memory; return what the heads read, and the tensor of the new state."""
        arithmetic = _EXACT if "memory" in self.plan.kept else self.plan.memory
        source = arithmetic.accept(self.model, features)
        hidden, state_out = write_memory(self.model, arithmetic, memory, source.plain)
        return _settled("memory", hidden), state_out

    def head(self, name: str, layer: Layer, features: Signal) -> int:
        """Add a head and return its tensor."""
        return BlockWriter(self.model, self.plan.where_kept(name, self.plan.heads)).head(name, layer, features)


def _plan(recipe: CompressionRecipe, ranges: Ranges) -> _Plan:
    if not recipe.needs_calibration:
        everywhere = float_arithmetic(recipe.precision, recipe.weight_scales)
        return _Plan(everywhere, everywhere, everywhere, everywhere)
    dynamic = float_arithmetic(Precision.INT8_DYNAMIC, recipe.weight_scales)
    low, high = ranges[OBSERVATION]
    # The file's normalised features are a tenth of the policy's, as `_normalise` says.
    static = StaticArithmetic({**ranges, _NORMALISED: Range(low / OBSERVATION_CLIP, high / OBSERVATION_CLIP)})
    if recipe.precision is Precision.INT8_FULL:
        return _Plan(static, static, dynamic, static)
    return _Plan(_EXACT, static, dynamic, _EXACT)


def _normalise(model: GraphBuilder, graph: PolicyGraph, observation: int) -> int:
    """Add `clip((observation - shift) * scale, -10, 10) / 10`.

    MUL clips to [-1, 1] for nothing, as its fused activation; `_widen` gives the factor 10 back.
    """
    if graph.observation_shift is None or graph.observation_scale is None:
        return observation
    shape = (BATCH, graph.observation_size)
    shift = model.constant("observation_shift", graph.observation_shift)
    scale = model.constant("observation_scale", graph.observation_scale / np.float32(OBSERVATION_CLIP))
    centred = model.apply(SUBTRACT, (observation, shift), name="centred", shape=shape)
    return model.apply(
        MULTIPLY, (centred, scale), name=_NORMALISED, shape=shape, activation=FusedActivation.RELU_N1_TO_1
    )


def _widen(graph: PolicyGraph, tower: Tower) -> Tower:
    """Make a tower's first layer read what `_normalise` gives."""
    first, *others = tower
    if graph.observation_scale is None or not isinstance(first, Layer):
        return tower
    return (replace(first, weight=first.weight * np.float32(OBSERVATION_CLIP)), *others)


def _settled(name: str, index: int) -> Signal:
    return Signal(name, lambda _: index)


def as_json(metadata: Mapping[str, object]) -> bytes:
    """Metadata as a file carries it.

    Raises:
        TypeError, ValueError: it is not JSON.
    """
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
