"""How a block computes: in float32 with weights of any kind, or in int8 from input to output.

An arithmetic stores a block's parameters, says what its results are, and brings a tensor of the other arithmetic into
its own. `blocks.py` writes the same operators with either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple, Protocol

import numpy as np

from compressor.calibration import Ranges
from compressor.layer import Float32Array
from compressor.quantization import (
    Quantization,
    QuantizedWeight,
    quantize_activation,
    quantize_affine,
    quantize_per_channel,
    quantize_per_tensor,
    quantize_to_int4,
    to_float16,
)
from compressor.recipe import Precision, WeightScales
from compressor.tflite_writer.builder import GraphBuilder
from compressor.tflite_writer.operations import (
    CONV_2D,
    CONV_2D_PER_CHANNEL,
    DEQUANTIZE_FLOAT16,
    DEQUANTIZE_INT8,
    DEQUANTIZE_UINT8,
    FULLY_CONNECTED,
    FULLY_CONNECTED_PER_CHANNEL,
    FULLY_CONNECTED_PER_TENSOR,
    QUANTIZE,
    Operation,
)
from compressor.tflite_writer.schema import FusedActivation, TensorType

# A smaller int8 weight saves next to nothing, so the inputs and heads of a small policy stay exact. They run
# no slower for it: an int8 layer has to quantise its inputs first.
SMALLEST_INT8_WEIGHT = 1024

# What reads a weight, by the weight's rank: a matrix or a convolution's kernels.
_READERS: dict[int, Operation] = {2: FULLY_CONNECTED, 4: CONV_2D}

_MATRIX_RANK = 2

# The specification fixes the grid of an int8 TANH's output: [-1, 127/128].
_TANH_OUTPUT = Quantization(np.float32(1 / 128), 0)


class Parameters(NamedTuple):
    """A weight and its bias in the graph: what reads them, and the indices of their tensors."""

    operation: Operation
    weight: int
    bias: int


class Signal:
    """What a block gives, written when it is first asked for: as it is, or behind a ReLU.

    A residual's sum is read both ways. Written late, each way is one ADD with its own fused activation, and a way
    that nobody asks for costs nothing.

    Args:
        name: the block's, under which its range was noted.
        write: adds the tensor, with the given activation, to the graph.
    """

    def __init__(self, name: str, write: Callable[[FusedActivation], int]) -> None:
        self.name = name
        self.write = cache(write)

    @property
    def plain(self) -> int:
        """The tensor as it is."""
        return self.write(FusedActivation.NONE)

    @property
    def rectified(self) -> int:
        """The tensor behind a ReLU."""
        return self.write(FusedActivation.RELU)


class Arithmetic(Protocol):
    """What `blocks.py` needs of an arithmetic."""

    def parameters(
        self, model: GraphBuilder, name: str, weight: Float32Array, bias: Float32Array, *, inputs: int
    ) -> Parameters:
        """Store the parameters of a layer that reads the tensor `inputs`."""
        ...

    def accept(self, model: GraphBuilder, signal: Signal) -> Signal:
        """Return the signal as this arithmetic reads it."""
        ...

    def grid(self, name: str, activation: FusedActivation = FusedActivation.NONE) -> Quantization | None:
        """Return the grid of a block's result; None for float32."""
        ...

    @property
    def tanh_grid(self) -> Quantization | None:
        """The grid of a TANH's result; None for float32."""
        ...


_ParameterWriter = Callable[[GraphBuilder, str, Float32Array, Float32Array], Parameters]


@dataclass(frozen=True, slots=True)
class FloatArithmetic:
    """float32 from input to output; `store` says how weights are kept."""

    store: _ParameterWriter
    tanh_grid: None = None

    def parameters(
        self, model: GraphBuilder, name: str, weight: Float32Array, bias: Float32Array, *, inputs: int
    ) -> Parameters:
        """Store the parameters, whatever reads them."""
        del inputs
        return self.store(model, name, weight, bias)

    def accept(self, model: GraphBuilder, signal: Signal) -> Signal:
        """Return the signal as float32."""
        return Signal(signal.name, lambda activation: dequantize(model, signal.write(activation)))

    def grid(self, name: str, activation: FusedActivation = FusedActivation.NONE) -> None:
        """Return None: results are float32."""


@dataclass(frozen=True, slots=True)
class StaticArithmetic:
    """int8 from input to output, on the grids of calibrated ranges."""

    ranges: Ranges
    tanh_grid: Quantization = _TANH_OUTPUT

    def parameters(
        self, model: GraphBuilder, name: str, weight: Float32Array, bias: Float32Array, *, inputs: int
    ) -> Parameters:
        """Store an int8 weight with a scale per output, and an int32 bias in the scale of the products."""
        grid = model.quantization(inputs)
        if grid is None:
            raise TypeError(f"{name} reads {model.tensors[inputs].name}, which is float32: accept it first")
        (values, scales), integers = quantize_affine(weight, bias, input_scale=grid.scale)
        return Parameters(
            _READERS[weight.ndim],
            model.constant(f"{name}.weight", values, scales=scales),
            model.constant(f"{name}.bias", integers, scales=grid.scale * scales),
        )

    def accept(self, model: GraphBuilder, signal: Signal) -> Signal:
        """Return the signal as int8."""

        def quantize(activation: FusedActivation) -> int:
            index = signal.write(activation)
            if model.quantization(index) is not None:
                return index
            name, shape = model.tensors[index].name, model.tensors[index].shape
            grid = self.grid(signal.name, activation)
            return model.apply(QUANTIZE, (index,), name=f"{name}.int8", shape=shape, quantization=grid)

        return Signal(signal.name, quantize)

    def grid(self, name: str, activation: FusedActivation = FusedActivation.NONE) -> Quantization:
        """Return the grid of the range that was noted under this name; behind a ReLU, of its positive part."""
        low, high = self.ranges[name]
        return quantize_activation(0.0 if activation is FusedActivation.RELU else low, high)


def float_arithmetic(precision: Precision, weight_scales: WeightScales) -> FloatArithmetic:
    """Return the arithmetic of a precision whose activations are float32."""
    stores: dict[Precision, _ParameterWriter] = {
        Precision.FLOAT32: _store_float32,
        Precision.FLOAT16: _store_float16,
        Precision.INT8_DYNAMIC: partial(_store_int8, weight_scales),
        Precision.INT4_DYNAMIC: _store_int4,
    }
    return FloatArithmetic(stores[precision])


def dequantize(model: GraphBuilder, index: int, *, name: str | None = None) -> int:
    """Return an int8 or uint8 tensor as float32, under this name; a float32 tensor is returned as it is."""
    tensor = model.tensors[index]
    if model.quantization(index) is None:
        return index
    operation = DEQUANTIZE_UINT8 if tensor.type is TensorType.UINT8 else DEQUANTIZE_INT8
    return model.apply(operation, (index,), name=name or f"{tensor.name}.float32", shape=tensor.shape)


def _store_float32(model: GraphBuilder, name: str, weight: Float32Array, bias: Float32Array) -> Parameters:
    stored = model.constant(f"{name}.weight", weight)
    return Parameters(_READERS[weight.ndim], stored, model.constant(f"{name}.bias", bias))


def _store_float16(model: GraphBuilder, name: str, weight: Float32Array, bias: Float32Array) -> Parameters:
    # The bias too, small as it is: ai-edge-litert 2.1 delegates a layer only if both come the same way.
    stored = _restored(model, f"{name}.weight", weight)
    return Parameters(_READERS[weight.ndim], stored, _restored(model, f"{name}.bias", bias))


def _restored(model: GraphBuilder, name: str, values: Float32Array) -> int:
    half = model.constant(f"{name}.float16", to_float16(values, name=name))
    return model.apply(DEQUANTIZE_FLOAT16, (half,), name=name, shape=values.shape)


def _store_int8(
    weight_scales: WeightScales, model: GraphBuilder, name: str, weight: Float32Array, bias: Float32Array
) -> Parameters:
    if weight.size < SMALLEST_INT8_WEIGHT:
        return _store_float32(model, name, weight, bias)
    operation, quantize = _int8_reader(weight, weight_scales)
    values, scales = quantize(weight)
    stored = model.constant(f"{name}.weight", values, scales=scales)
    return Parameters(operation, stored, model.constant(f"{name}.bias", bias))


def _store_int4(model: GraphBuilder, name: str, weight: Float32Array, bias: Float32Array) -> Parameters:
    # Kernels stay int8: runtimes read int4 in matrices.
    if weight.size < SMALLEST_INT8_WEIGHT or weight.ndim > _MATRIX_RANK:
        return _store_int8(WeightScales.PER_CHANNEL, model, name, weight, bias)
    values, scales = quantize_to_int4(weight)
    stored = model.constant_int4(f"{name}.weight", values, scales=scales)
    return Parameters(FULLY_CONNECTED_PER_CHANNEL, stored, model.constant(f"{name}.bias", bias))


def _int8_reader(
    weight: Float32Array, weight_scales: WeightScales
) -> tuple[Operation, Callable[[Float32Array], QuantizedWeight]]:
    # Kernels keep a scale per output in any case: every runtime reads those rightly.
    if weight.ndim > _MATRIX_RANK:
        return CONV_2D_PER_CHANNEL, quantize_per_channel
    if weight_scales is WeightScales.PER_TENSOR:
        return FULLY_CONNECTED_PER_TENSOR, quantize_per_tensor
    return FULLY_CONNECTED_PER_CHANNEL, quantize_per_channel
