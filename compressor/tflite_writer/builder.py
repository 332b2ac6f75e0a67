"""Collect a computation as tensors and operators, ready for `compressor.tflite_writer.serializer`.

A builder knows nothing of policies: `mlp.py` says what to compute, and a new kind of network is another
such file. A new operator is an `Operation` constant here.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compressor.tflite_writer.schema import BuiltinOperator, BuiltinOptions, FusedActivation, TensorType

# The first dimension of every tensor that follows the batch; readers resize it, and start with one.
BATCH = -1

_TENSOR_TYPES = {
    np.dtype(np.float32): TensorType.FLOAT32,
    np.dtype(np.float16): TensorType.FLOAT16,
    np.dtype(np.int8): TensorType.INT8,
}


class Operation(NamedTuple):
    """A kind of operator: its code, the version of its meaning, and its table of options."""

    code: BuiltinOperator
    version: int
    options: BuiltinOptions


# The version tells a runtime what it must be able to do: 3 is int8 weights under float inputs, 12 adds a scale
# per row. tflite-runtime 2.14 does not know 12 and refuses the file; under a lower number it would misread it.
FULLY_CONNECTED = Operation(BuiltinOperator.FULLY_CONNECTED, 1, BuiltinOptions.FULLY_CONNECTED)
FULLY_CONNECTED_PER_TENSOR = FULLY_CONNECTED._replace(version=3)
FULLY_CONNECTED_PER_CHANNEL = FULLY_CONNECTED._replace(version=12)
DEQUANTIZE_FLOAT16 = Operation(BuiltinOperator.DEQUANTIZE, 3, BuiltinOptions.NONE)
TANH = Operation(BuiltinOperator.TANH, 1, BuiltinOptions.NONE)
SUBTRACT = Operation(BuiltinOperator.SUB, 1, BuiltinOptions.SUB)
MULTIPLY = Operation(BuiltinOperator.MUL, 1, BuiltinOptions.MUL)


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array of the graph.

    Attributes:
        shape: its dimensions; `BATCH` where the batch decides.
        data: the constant's bytes; empty for what is computed at run time.
        scales: float32 `[1]` or `[shape[0]]` of an int8 tensor, real = scale * int8; None for a float tensor.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: bytes = b""
    scales: npt.NDArray[np.float32] | None = None


class Node(NamedTuple):
    """One operator at work: tensors are given by their index."""

    operation: Operation
    inputs: tuple[int, ...]
    output: int
    activation: FusedActivation


@dataclass(slots=True, eq=False)
class GraphBuilder:
    """Tensors and operators in the order they run; every method returns the index of the tensor it added."""

    tensors: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def input(self, name: str, shape: tuple[int, ...]) -> int:
        """Declare a float32 input of the graph."""
        index = self._add(Tensor(name, shape, TensorType.FLOAT32))
        self.inputs.append(index)
        return index

    def constant(
        self,
        name: str,
        values: npt.NDArray[np.float32 | np.float16 | np.int8],
        *,
        scales: npt.NDArray[np.float32] | None = None,
    ) -> int:
        """Add a constant; int8 values come with the scales that make them real numbers."""
        kind = _TENSOR_TYPES[values.dtype]
        return self._add(Tensor(name, values.shape, kind, values.tobytes(), scales))

    def apply(
        self,
        operation: Operation,
        inputs: tuple[int, ...],
        *,
        name: str,
        shape: tuple[int, ...],
        activation: FusedActivation = FusedActivation.NONE,
    ) -> int:
        """Run an operator on tensors; its result is a float32 tensor of this name and shape."""
        output = self._add(Tensor(name, shape, TensorType.FLOAT32))
        self.nodes.append(Node(operation, inputs, output, activation))
        return output

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1
