"""Write a multilayer-perceptron policy: from `PolicyGraph` to operators.

Each dense layer is a FULLY_CONNECTED, with TANH behind it where asked; RELU is fused. Normalisation is SUB and
MUL, in float32 whatever the precision, because features may differ by orders of magnitude: folded into int8
weights, the largest would leave the others no bits.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from compressor.layer import Layer
from compressor.policy_graph import OBSERVATION_CLIP, PolicyGraph
from compressor.recipe import Precision, WeightScales
from compressor.tflite_writer.builder import BATCH, MULTIPLY, SUBTRACT, TANH, GraphBuilder
from compressor.tflite_writer.parameters import ParameterWriter, parameter_writer
from compressor.tflite_writer.schema import FusedActivation
from compressor.tflite_writer.serializer import serialize

OBSERVATION = "observation"
METADATA_NAME = "edgerl.policy"

_DenseWriter = Callable[[str, Layer, int], int]


def write_mlp(
    graph: PolicyGraph,
    *,
    precision: Precision,
    weight_scales: WeightScales,
    metadata: Mapping[str, object],
) -> bytes:
    """Write the policy as a `.tflite`.

    Args:
        graph: the policy.
        precision: how weights are stored; inputs, outputs and normalisation are float32 always.
        weight_scales: how many scales an int8 weight has.
        metadata: what the file says of itself, written as JSON under `edgerl.policy`.

    Returns:
        The file. Its input is `observation` `[batch, D]`; its outputs are the policy's heads and `value`, each
        `[batch, out]`.

    Raises:
        InvalidPolicyError: a weight does not fit into the precision.
    """
    model = GraphBuilder()
    dense = partial(_dense, model, parameter_writer(precision, weight_scales))
    inputs = _normalise(model, graph, model.input(OBSERVATION, (BATCH, graph.observation_size)))
    features = _tower(dense, "torso", _widen(graph, graph.torso), inputs)
    model.outputs += [dense(name, head, features) for name, head in graph.heads.items()]
    if graph.value_torso is not None:
        features = _tower(dense, "value_torso", _widen(graph, graph.value_torso), inputs)
    if graph.value_head is not None:
        model.outputs.append(dense("value", graph.value_head, features))
    return serialize(model, metadata={METADATA_NAME: _as_json(metadata)})


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
        MULTIPLY, (centred, scale), name="normalised", shape=shape, activation=FusedActivation.RELU_N1_TO_1
    )


def _widen(graph: PolicyGraph, tower: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Make a tower's first layer read what `_normalise` gives."""
    if graph.observation_scale is None:
        return tower
    first, *others = tower
    return (replace(first, weight=first.weight * np.float32(OBSERVATION_CLIP)), *others)


def _tower(dense: _DenseWriter, name: str, layers: tuple[Layer, ...], inputs: int) -> int:
    for index, layer in enumerate(layers):
        inputs = dense(f"{name}[{index}]", layer, inputs)
    return inputs


def _dense(model: GraphBuilder, write_parameters: ParameterWriter, name: str, layer: Layer, inputs: int) -> int:
    operation, weight, bias = write_parameters(model, name, layer)
    shape = (BATCH, layer.bias.size)
    if layer.activation == "tanh":
        sums = model.apply(operation, (inputs, weight, bias), name=f"{name}.sums", shape=shape)
        return model.apply(TANH, (sums,), name=name, shape=shape)
    fused = FusedActivation.RELU if layer.activation == "relu" else FusedActivation.NONE
    return model.apply(operation, (inputs, weight, bias), name=name, shape=shape, activation=fused)


def _as_json(metadata: Mapping[str, object]) -> bytes:
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
