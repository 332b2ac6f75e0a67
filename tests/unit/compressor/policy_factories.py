"""Policies with defaults, and readers that share no code with the writer."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as reader
from ai_edge_litert.interpreter import Interpreter

from compressor import (
    CompressionRecipe,
    Convolution,
    Flatten,
    Gru,
    Layer,
    Lstm,
    MaxPool,
    PolicyGraph,
    Precision,
    Relu,
    Residual,
    compress,
)

STATIC = [Precision.INT8, Precision.INT8_FULL]
NOT_FULL = [precision for precision in Precision if precision != Precision.INT8_FULL]


def make_layer(outputs, inputs, activation=None, *, seed=0):
    generator = np.random.default_rng([seed, outputs, inputs])
    weight = generator.standard_normal((outputs, inputs)) / np.sqrt(inputs)
    return Layer(weight.astype(np.float32), generator.standard_normal(outputs, np.float32) * 0.1, activation)


def make_policy(*, features=4, width=64, actions=3, gaussian=False, value=None, normalised=False, activation="tanh"):
    """Return a policy; `value` is None, "own" (a second tower) or "shared"."""
    mean = make_layer(actions, width, seed=3)
    log_std = Layer(np.zeros((actions, width), np.float32), np.linspace(-1, 0.5, actions, dtype=np.float32))
    return PolicyGraph(
        torso=make_tower(features, width, activation, seed=1),
        heads={"mean": mean, "log_std": log_std} if gaussian else {"logits": mean},
        value_torso=make_tower(features, width, activation, seed=2) if value == "own" else None,
        value_head=make_layer(1, width, seed=4) if value else None,
        observation_shift=np.linspace(-5, 5, features, dtype=np.float32) if normalised else None,
        observation_scale=np.geomspace(0.1, 10, features, dtype=np.float32) if normalised else None,
    )


def make_tower(features, width, activation, *, seed):
    return (
        make_layer(width, features, activation, seed=seed),
        make_layer(width, width, activation, seed=seed + 10),
    )


def make_convolution(outputs, inputs, size, *, stride=1, padding="valid", activation=None, seed=0):
    generator = np.random.default_rng([seed, outputs, inputs, size])
    weight = generator.standard_normal((outputs, size, size, inputs)) * np.sqrt(2 / (size * size * inputs))
    bias = generator.standard_normal(outputs, np.float32) * 0.1
    return Convolution(weight.astype(np.float32), bias, stride, padding, activation)


def make_nature(*, actions=6, value=False, size=84, seed=0):
    """Return the convolutions of Mnih et al. 2015 with random weights; `size` may be smaller than theirs."""
    convolutions = (
        make_convolution(32, 4, 8, stride=4, activation="relu", seed=seed),
        make_convolution(64, 32, 4, stride=2, activation="relu", seed=seed),
        make_convolution(64, 64, 3, activation="relu", seed=seed),
    )
    side = ((size - 8) // 4 + 1 - 4) // 2 + 1 - 2
    return PolicyGraph(
        torso=(*convolutions, Flatten(), make_layer(512, side * side * 64, "relu", seed=seed)),
        heads={"logits": make_layer(actions, 512, seed=seed)},
        value_head=make_layer(1, 512, seed=seed) if value else None,
        image_shape=(size, size, 4),
    )


def make_resnet(*, actions=6, image_shape=(15, 18, 3), channels=(16, 32), seed=0):
    """Return the residual network of Espeholt et al. 2018 with random weights."""
    blocks, (height, width, inputs) = [], image_shape
    for outputs in channels:
        blocks += [make_convolution(outputs, inputs, 3, padding="same", seed=seed), MaxPool(3, 2)]
        blocks += [make_residual(outputs, seed=seed + index) for index in range(2)]
        height, width, inputs = -(-height // 2), -(-width // 2), outputs
    head = make_layer(64, height * width * inputs, "relu", seed=seed)
    return PolicyGraph(
        torso=(*blocks, Relu(), Flatten(), head),
        heads={"logits": make_layer(actions, 64, seed=seed)},
        image_shape=image_shape,
    )


def make_residual(channels, *, seed=0):
    first, second = (make_convolution(channels, channels, 3, padding="same", seed=seed + part) for part in (0, 100))
    return Residual(first, second)


def make_memory(kind, *, features=64, size=48, seed=0):
    """Return a GRU or LSTM cell with random weights."""
    generator = np.random.default_rng([seed, features, size])
    rows = {Gru: 3, Lstm: 4}[kind] * size
    shapes = [(rows, features), (rows, size), (rows,), (rows,)]
    return kind(*((generator.uniform(-1, 1, shape) / np.sqrt(size) * 2).astype(np.float32) for shape in shapes))


def make_recurrent(kind, *, value=False, gaussian=False, image=False):
    """Return a policy with a memory behind a dense layer, or behind convolutions."""
    seeing = make_nature(size=40) if image else make_policy(features=6, normalised=True)
    memory = make_memory(kind, features=512 if image else 64)
    mean = make_layer(4, 48, seed=3)
    return replace(
        seeing,
        torso=seeing.torso if image else seeing.torso[:1],
        memory=memory,
        heads={"mean": mean, "log_std": make_layer(4, 48, seed=5)} if gaussian else {"logits": mean},
        value_head=make_layer(1, 48, seed=4) if value else None,
    )


NETWORKS = {
    "mlp": partial(make_policy, features=16, value="own", normalised=True),
    "nature": partial(make_nature, size=44, value=True),
    "resnet": make_resnet,
    "gru": partial(make_recurrent, Gru, value=True),
    "lstm": partial(make_recurrent, Lstm, gaussian=True),
    "images and gru": partial(make_recurrent, Gru, image=True),
}

# A memory's state is float32: int8-full has none.
EXPORTS = [
    pytest.param(name, precision, id=f"{name}, {precision}")
    for name in NETWORKS
    for precision in (NOT_FULL if "gru" in name or "lstm" in name else Precision)
]


def make_states(graph, count=32, *, seed=0):
    return np.random.default_rng(seed).uniform(-0.8, 0.8, (count, graph.state_size)).astype(np.float32)


def make_observations(graph, count=32, *, spread=1.0, seed=0):
    """Return images of squares, or observations that look standard normal to the first layer, times `spread`."""
    if graph.image_shape is not None:
        return make_images(graph.image_shape, count, seed=seed)
    standard = np.random.default_rng(seed).standard_normal((count, graph.observation_size)) * spread
    if graph.observation_scale is not None:
        standard = standard / graph.observation_scale + graph.observation_shift
    return standard.astype(np.float32)


def make_images(shape, count, *, seed=0):
    """Return random squares of 5 pixels, uint8: neighbours in a camera's image are alike."""
    height, width, channels = shape
    generator = np.random.default_rng(seed)
    squares = generator.integers(0, 256, (count, -(-height // 5), -(-width // 5), channels), np.uint8)
    return np.ascontiguousarray(squares.repeat(5, axis=1).repeat(5, axis=2)[:, :height, :width])


def export(graph, precision=Precision.INT8_DYNAMIC, *, metadata=None, **parts):
    """Return the file, calibrated with observations of another seed than the tests'."""
    calibration = make_observations(graph, 64 if graph.image_shape else 500, seed=1000)
    recipe = CompressionRecipe(precision, **parts)
    return compress(graph, recipe, metadata=metadata or {}, calibration=calibration).model


def load(model, batch=1):
    """Return an interpreter that is ready for this batch size."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    for tensor in interpreter.get_input_details():
        interpreter.resize_tensor_input(tensor["index"], [batch, *tensor["shape"][1:]], strict=True)
    interpreter.allocate_tensors()
    return interpreter


def parse(model):
    """Return the file as objects of the runtime's own generated schema."""
    return reader.ModelT.InitFromPackedBuf(model, 0)


def read_metadata(model, name="edgerl.policy"):
    parsed = parse(model)
    (entry,) = [entry for entry in parsed.metadata if entry.name.decode() == name]
    return json.loads(bytes(parsed.buffers[entry.buffer].data))


def weight_types(model):
    """Return the stored element type of every weight matrix, by tensor name."""
    return {
        tensor.name.decode(): tensor.type
        for tensor in parse(model).subgraphs[0].tensors
        if tensor.buffer and tensor.name.endswith(b".weight")
    }
