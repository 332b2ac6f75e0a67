"""FULLY_CONNECTED with int8 weights under float inputs, with loops and integers, as the runtime defines it.

The inputs of each observation get their own 8-bit grid, s_x = (max - min) / 255 with 0 on the grid; products
are summed as integers and scaled once: y = s_x s_w[c] sum (q_x - z_x) q_w + b.
"""

import math

import numpy as np

SMALLEST_INT8_WEIGHT = 1024


def forward(graph, observations):
    """Return the head outputs of an int8-dynamic file, without the value, `[N, out]` each."""
    features = graph.normalise(observations)
    for layer in graph.torso:
        features = activate(layer, dense(layer, features))
    return {name: dense(head, features) for name, head in graph.heads.items()}


def activate(layer, sums):
    if layer.activation == "tanh":
        return np.tanh(sums)
    return np.maximum(sums, 0) if layer.activation == "relu" else sums


def dense(layer, inputs):
    if layer.weight.size < SMALLEST_INT8_WEIGHT:
        return inputs @ layer.weight.T + layer.bias
    return np.array([hybrid_row(layer, row) for row in inputs])


def hybrid_row(layer, row):
    integers, scale, zero_point = quantize_inputs(row)
    outputs = []
    for weights, bias in zip(layer.weight.astype(np.float64), layer.bias, strict=True):
        weight_scale = max(abs(weights)) / 127 or 1.0
        products = [(q - zero_point) * round(w / weight_scale) for q, w in zip(integers, weights, strict=True)]
        outputs.append(scale * weight_scale * sum(products) + bias)
    return outputs


def quantize_inputs(row):
    low, high = min(0.0, *row), max(0.0, *row)
    scale = (high - low) / 255 or 1.0
    zero_point = round(-128 - low / scale)
    integers = [min(127, max(-128, math.floor(x / scale + 0.5) + zero_point)) for x in row]
    return integers, scale, zero_point
