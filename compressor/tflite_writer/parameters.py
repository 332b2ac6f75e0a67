"""How a dense layer's weight and bias are stored, for each precision.

A precision is a function from a layer to the tensors of its parameters and the kind of FULLY_CONNECTED that
reads them. Every kind of network that multiplies by matrices uses these.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from compressor.layer import Float32Array, Layer
from compressor.quantization import QuantizedWeight, quantize_per_channel, quantize_per_tensor, to_float16
from compressor.recipe import Precision, WeightScales
from compressor.tflite_writer.builder import (
    DEQUANTIZE_FLOAT16,
    FULLY_CONNECTED,
    FULLY_CONNECTED_PER_CHANNEL,
    FULLY_CONNECTED_PER_TENSOR,
    GraphBuilder,
    Operation,
)

# A smaller int8 matrix saves next to nothing, so the inputs and heads of a small policy stay exact. They run
# no slower for it: an int8 layer has to quantise its inputs first.
SMALLEST_INT8_WEIGHT = 1024


class Parameters(NamedTuple):
    """A layer's parameters in the graph: what reads them, and the indices of their tensors."""

    operation: Operation
    weight: int
    bias: int


ParameterWriter = Callable[[GraphBuilder, str, Layer], Parameters]


def parameter_writer(precision: Precision, weight_scales: WeightScales) -> ParameterWriter:
    """Return the function that adds a named layer's parameters to a graph."""
    int8 = {
        WeightScales.PER_CHANNEL: partial(_write_int8, quantize_per_channel, FULLY_CONNECTED_PER_CHANNEL),
        WeightScales.PER_TENSOR: partial(_write_int8, quantize_per_tensor, FULLY_CONNECTED_PER_TENSOR),
    }
    writers: dict[Precision, ParameterWriter] = {
        Precision.FLOAT32: _write_float32,
        Precision.FLOAT16: _write_float16,
        Precision.INT8_DYNAMIC: int8[weight_scales],
    }
    return writers[precision]


def _write_float32(model: GraphBuilder, name: str, layer: Layer) -> Parameters:
    weight = model.constant(f"{name}.weight", layer.weight)
    return Parameters(FULLY_CONNECTED, weight, model.constant(f"{name}.bias", layer.bias))


def _write_float16(model: GraphBuilder, name: str, layer: Layer) -> Parameters:
    # The bias too, small as it is: ai-edge-litert 2.1 delegates a layer only if both come the same way.
    weight = _restored(model, f"{name}.weight", layer.weight)
    return Parameters(FULLY_CONNECTED, weight, _restored(model, f"{name}.bias", layer.bias))


def _restored(model: GraphBuilder, name: str, values: Float32Array) -> int:
    half = model.constant(f"{name}.float16", to_float16(values, name=name))
    return model.apply(DEQUANTIZE_FLOAT16, (half,), name=name, shape=values.shape)


def _write_int8(
    quantize: Callable[[Float32Array], QuantizedWeight],
    operation: Operation,
    model: GraphBuilder,
    name: str,
    layer: Layer,
) -> Parameters:
    if layer.weight.size < SMALLEST_INT8_WEIGHT:
        return _write_float32(model, name, layer)
    values, scales = quantize(layer.weight)
    weight = model.constant(f"{name}.weight", values, scales=scales)
    return Parameters(operation, weight, model.constant(f"{name}.bias", layer.bias))
