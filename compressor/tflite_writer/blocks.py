"""Write blocks: each as the operators that compute it, in the arithmetic that it is given."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from compressor.layer import Block, Convolution, Flatten, Layer, MaxPool, Relu, Residual
from compressor.tflite_writer import schema
from compressor.tflite_writer.arithmetic import Arithmetic, Signal, dequantize
from compressor.tflite_writer.builder import BATCH, GraphBuilder
from compressor.tflite_writer.operations import ADD, MAX_POOL_2D, RELU, RESHAPE, TANH
from compressor.tflite_writer.schema import Field, FusedActivation, PaddingKind

_IMAGE_RANK = 4


@dataclass(frozen=True, slots=True)
class BlockWriter:
    """Writes blocks into a graph in one arithmetic."""

    model: GraphBuilder
    arithmetic: Arithmetic

    def write(self, name: str, block: Block, inputs: Signal) -> Signal:
        """Add a block that reads a signal, and return its own."""
        source = self.arithmetic.accept(self.model, inputs)
        match block:
            case Layer() | Convolution():
                return self._settled(name, self._affine(name, block, source.plain))
            case MaxPool():
                return self._settled(name, self._max_pool(name, block, source.plain))
            case Residual():
                return self._residual(name, block, source)
            case Relu():
                return Signal(name, lambda _: source.rectified)
            case Flatten():
                return Signal(name, lambda activation: self._flatten(name, source.write(activation)))

    def head(self, name: str, layer: Layer, features: Signal) -> int:
        """Add a head, whose result is float32 in every arithmetic, and return its tensor."""
        source = self.arithmetic.accept(self.model, features)
        grid = self.arithmetic.grid(f"{name}.sums")
        if grid is None:
            return self._affine(name, layer, source.plain)
        return dequantize(self.model, self._affine(name, layer, source.plain, sums=f"{name}.sums"), name=name)

    def _affine(self, name: str, block: Layer | Convolution, inputs: int, *, sums: str | None = None) -> int:
        model, arithmetic = self.model, self.arithmetic
        operation, weight, bias = arithmetic.parameters(model, name, block.weight, block.bias, inputs=inputs)
        is_tanh = block.activation == "tanh"
        result = sums or (f"{name}.sums" if is_tanh else name)
        fused = FusedActivation.RELU if block.activation == "relu" else FusedActivation.NONE
        index = model.apply(
            operation,
            (inputs, weight, bias),
            name=result,
            shape=self._shape_after(name, block, inputs),
            activation=fused,
            options=_convolution_options(block) if isinstance(block, Convolution) else None,
            quantization=arithmetic.grid(result, fused),
        )
        if not is_tanh:
            return index
        shape = model.tensors[index].shape
        return model.apply(TANH, (index,), name=name, shape=shape, quantization=arithmetic.tanh_grid)

    def _max_pool(self, name: str, block: MaxPool, inputs: int) -> int:
        return self.model.apply(
            MAX_POOL_2D,
            (inputs,),
            name=name,
            shape=self._shape_after(name, block, inputs),
            options=_pool_options(block),
            quantization=self.model.quantization(inputs),
        )

    def _residual(self, name: str, block: Residual, source: Signal) -> Signal:
        branch = self._affine(f"{name}.first", replace(block.first, activation="relu"), source.rectified)
        difference = self._affine(f"{name}.second", block.second, branch)
        inputs = (source.plain, difference)

        def add(activation: FusedActivation) -> int:
            return self.model.apply(
                ADD,
                inputs,
                name=_named(name, activation),
                shape=self.model.tensors[difference].shape,
                activation=activation,
                quantization=self.arithmetic.grid(name, activation),
            )

        return Signal(name, add)

    def _flatten(self, name: str, inputs: int) -> int:
        before = self.model.tensors[inputs]
        shape = (BATCH, int(np.prod(before.shape[1:])))
        target = self.model.constant(f"{name}.shape", np.array(shape, np.int32))
        grid = self.model.quantization(inputs)
        return self.model.apply(RESHAPE, (inputs, target), name=f"{before.name}.flat", shape=shape, quantization=grid)

    def _settled(self, name: str, index: int) -> Signal:
        """Return the signal of a tensor that is there already: a ReLU comes behind it."""
        return Signal(name, lambda activation: index if activation is FusedActivation.NONE else self._rectify(index))

    def _rectify(self, inputs: int) -> int:
        tensor, grid = self.model.tensors[inputs], self.model.quantization(inputs)
        name = _named(tensor.name, FusedActivation.RELU)
        if grid is None or len(tensor.shape) != _IMAGE_RANK:
            return self.model.apply(RELU, (inputs,), name=name, shape=tensor.shape, quantization=grid)
        # The delegate has no int8 RELU, but takes a pool over single pixels for the clamp that it is.
        return self.model.apply(
            MAX_POOL_2D,
            (inputs,),
            name=name,
            shape=tensor.shape,
            activation=FusedActivation.RELU,
            options=_pool_options(MaxPool(size=1, stride=1)),
            quantization=grid,
        )

    def _shape_after(self, name: str, block: Layer | Convolution | MaxPool, inputs: int) -> tuple[int, ...]:
        return (BATCH, *block.output_shape(name, self.model.tensors[inputs].shape[1:]))


def _named(name: str, activation: FusedActivation) -> str:
    return name if activation is FusedActivation.NONE else f"{name}.rectified"


def _convolution_options(block: Convolution) -> Mapping[Field, int]:
    return {
        schema.WINDOW_PADDING: PaddingKind.SAME if block.padding == "same" else PaddingKind.VALID,
        schema.WINDOW_STRIDE_WIDTH: block.stride,
        schema.WINDOW_STRIDE_HEIGHT: block.stride,
    }


def _pool_options(block: MaxPool) -> Mapping[Field, int]:
    return {
        schema.WINDOW_PADDING: PaddingKind.SAME,
        schema.WINDOW_STRIDE_WIDTH: block.stride,
        schema.WINDOW_STRIDE_HEIGHT: block.stride,
        schema.POOL_2D_FILTER_WIDTH: block.size,
        schema.POOL_2D_FILTER_HEIGHT: block.size,
    }
