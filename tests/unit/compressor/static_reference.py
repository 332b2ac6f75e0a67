"""A static int8 file in integers, as the specification of TensorFlow Lite defines its operators.

It reads the file with the runtime's generated schema, and shares no code with the writer or the oracle. Each operator
is integers in, int64 products and sums, and one multiplication back to int8:
https://www.tensorflow.org/lite/performance/quantization_spec. How that one is rounded the specification leaves to the
runtime; the boards' multiplies in float32 and rounds to the nearest, to even where two are.
"""

import math

import numpy as np
from ai_edge_litert.schema_py_generated import ActivationFunctionType, BuiltinOperator, Padding, TensorType
from policy_factories import parse

OPERATORS = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
DTYPES = {TensorType.FLOAT32: np.float32, TensorType.INT32: np.int32, TensorType.INT8: np.int8}


def run(model, observations):
    """Return every tensor of the file by its name: int8 tensors as integers, float32 ones as numbers."""
    parsed = parse(model)
    (graph,) = parsed.subgraphs
    values = {index: constant(parsed, tensor) for index, tensor in enumerate(graph.tensors) if tensor.buffer}
    values[graph.inputs[0]] = observations.astype(np.int64) if observations.dtype == np.int8 else observations
    for operator in graph.operators:
        code = OPERATORS[parsed.operatorCodes[operator.opcodeIndex].builtinCode]
        inputs = [(values[index], graph.tensors[index]) for index in operator.inputs]
        result = globals()[code.lower()](inputs, graph.tensors[operator.outputs[0]], operator.builtinOptions)
        values[operator.outputs[0]] = result
    return {graph.tensors[index].name.decode(): value for index, value in values.items()}


def constant(parsed, tensor):
    data = np.frombuffer(bytes(parsed.buffers[tensor.buffer].data), DTYPES[tensor.type]).reshape(tensor.shape)
    return data if data.dtype == np.float32 else data.astype(np.int64)


def scale_of(tensor):
    return np.array(tensor.quantization.scale, np.float64)


def zero_of(tensor):
    return int(tensor.quantization.zeroPoint[0])


def is_int8(tensor):
    return tensor.type == TensorType.INT8


def to_int8(sums, output, options):
    """Move integers onto the grid of a tensor, cut off below its zero point where a ReLU is fused."""
    fused = getattr(options, "fusedActivationFunction", 0)
    low = zero_of(output) if fused == ActivationFunctionType.RELU else -128
    return np.clip(sums + zero_of(output), low, 127)


def products_to_int8(sums, inputs, output, options):
    (_, source), (_, weight), _ = inputs
    multipliers = np.float32(scale_of(source)) * np.float32(scale_of(weight)) / np.float32(scale_of(output))
    return to_int8(np.rint(sums.astype(np.float32) * multipliers).astype(np.int64), output, options)


def fully_connected(inputs, output, options):
    (x, source), (weight, _), (bias, _) = inputs
    if not is_int8(output):
        return x @ weight.T + bias
    return products_to_int8((x - zero_of(source)) @ weight.T + bias, inputs, output, options)


def conv_2d(inputs, output, options):
    (x, source), (weight, _), (bias, _) = inputs
    _, height, width, _ = weight.shape
    stride = options.strideH
    centred = x - zero_of(source)
    if options.padding == Padding.SAME:
        centred = pad(centred, (height, width), stride, 0)
    rows, columns = ((centred.shape[1 + axis] - side) // stride + 1 for axis, side in enumerate((height, width)))
    sums = np.empty((len(x), rows, columns, len(bias)), np.int64)
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            patch = centred[:, top : top + height, left : left + width].reshape(len(x), -1)
            sums[:, row, column] = patch @ weight.reshape(len(bias), -1).T + bias
    return products_to_int8(sums, inputs, output, options)


def max_pool_2d(inputs, output, options):
    ((x, _),) = inputs
    size, stride = options.filterHeight, options.strideH
    rows, columns = (-(-side // stride) for side in x.shape[1:3])
    padded = pad(x, (size, size), stride, -128)
    pooled = np.empty((len(x), rows, columns, x.shape[3]), np.int64)
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            pooled[:, row, column] = padded[:, top : top + size, left : left + size].max(axis=(1, 2))
    return to_int8(pooled - zero_of(output), output, options)


def pad(x, window, stride, fill):
    around = []
    for side, size in zip(x.shape[1:3], window, strict=True):
        missing = max(0, (math.ceil(side / stride) - 1) * stride + size - side)
        around.append((missing // 2, missing - missing // 2))
    return np.pad(x, [(0, 0), *around, (0, 0)], constant_values=fill)


def add(inputs, output, options):
    """Add with a multiplier for each term, the larger of 21 bits: the specification leaves this to the runtime."""
    ratios = [float(np.float32(scale_of(t)[0]) / np.float32(scale_of(output)[0])) for _, t in inputs]
    shift = 21 - math.frexp(max(ratios))[1]
    terms = [(x - zero_of(t)) * round(ratio * 2**shift) for (x, t), ratio in zip(inputs, ratios, strict=True)]
    return to_int8((sum(terms) + (1 << (shift - 1))) >> shift, output, options)


def tanh(inputs, output, _options):
    """Look each of 256 results up, as there are no more."""
    ((x, source),) = inputs
    if not is_int8(output):
        return np.tanh(x)
    reals = np.tanh(scale_of(source)[0] * (np.arange(-128, 128) - zero_of(source)))
    return np.clip(np.rint(reals / scale_of(output)[0]) + zero_of(output), -128, 127).astype(np.int64)[x + 128]


def relu(inputs, _output, _options):
    ((x, source),) = inputs
    return np.maximum(x, zero_of(source))


def reshape(inputs, _output, _options):
    return inputs[0][0].reshape(len(inputs[0][0]), -1)


def quantize(inputs, output, _options):
    ((x, _),) = inputs
    return np.clip(np.rint(x / np.float32(scale_of(output)[0])) + zero_of(output), -128, 127).astype(np.int64)


def dequantize(inputs, _output, _options):
    ((x, source),) = inputs
    return (x - zero_of(source)) * scale_of(source)[0]


def sub(inputs, _output, _options):
    return inputs[0][0] - inputs[1][0]


def mul(inputs, _output, _options):
    return np.clip(inputs[0][0] * inputs[1][0], -1, 1)
