"""Policies with defaults, and readers that share no code with the writer."""

import json

import numpy as np
from ai_edge_litert import schema_py_generated as reader
from ai_edge_litert.interpreter import Interpreter

from compressor import Layer, PolicyGraph


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


def make_observations(graph, count=32, *, spread=1.0, seed=0):
    """Return observations that look standard normal to the first layer, times `spread`."""
    standard = np.random.default_rng(seed).standard_normal((count, graph.observation_size)) * spread
    if graph.observation_scale is not None:
        standard = standard / graph.observation_scale + graph.observation_shift
    return standard.astype(np.float32)


def load(model, batch=1):
    """Return an interpreter that is ready for this batch size."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    (observation,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(observation["index"], [batch, observation["shape"][1]])
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
        if tensor.buffer and len(tensor.shape) == 2
    }
