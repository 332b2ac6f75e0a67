"""Collect a computation as tensors and operators, ready for `compressor.tflite_writer.serializer`.

A builder knows nothing of policies: `policy.py` says what to compute.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compressor.quantization import Quantization, pack_int4
from compressor.tflite_writer.operations import SPLIT, Operation
from compressor.tflite_writer.schema import SPLIT_COUNT, Field, FusedActivation, TensorType

# The first dimension of every tensor that follows the batch; readers resize it, and start with one.
BATCH = -1

_TENSOR_TYPES = {
    np.dtype(np.float32): TensorType.FLOAT32,
    np.dtype(np.float16): TensorType.FLOAT16,
    np.dtype(np.int32): TensorType.INT32,
    np.dtype(np.int8): TensorType.INT8,
}

Constant = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.int32] | npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array of the graph.

    Attributes:
        shape: its dimensions; `BATCH` where the batch decides.
        data: the constant's bytes; empty for what is computed at run time.
        scales: float32 `[1]` or `[shape[0]]`, real = scale * (integer - zero_point); None for real tensors.
        zero_point: the integer that stands for 0.0.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: bytes = b""
    scales: npt.NDArray[np.float32] | None = None
    zero_point: int = 0


class Node(NamedTuple):
    """One operator at work: tensors are given by their index."""

    operation: Operation
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[Field, int]


@dataclass(slots=True, eq=False)
class GraphBuilder:
    """Tensors and operators in the order they run; every method returns the index of the tensor it added."""

    tensors: list[Tensor] = field(default_factory=list[Tensor])
    nodes: list[Node] = field(default_factory=list[Node])
    inputs: list[int] = field(default_factory=list[int])
    outputs: list[int] = field(default_factory=list[int])

    def input(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        kind: TensorType = TensorType.FLOAT32,
        quantization: Quantization | None = None,
    ) -> int:
        """Declare an input of the graph."""
        index = self._add(_computed(name, shape, kind, quantization))
        self.inputs.append(index)
        return index

    def constant(self, name: str, values: Constant, *, scales: npt.NDArray[np.float32] | None = None) -> int:
        """Add a constant; integers that stand for real numbers come with their scales."""
        return self._add(Tensor(name, values.shape, _TENSOR_TYPES[values.dtype], values.tobytes(), scales))

    def constant_int4(self, name: str, values: npt.NDArray[np.int8], *, scales: npt.NDArray[np.float32]) -> int:
        """Add a constant of numbers from -8 to 7, two in a byte."""
        return self._add(Tensor(name, values.shape, TensorType.INT4, pack_int4(values), scales))

    def apply(
        self,
        operation: Operation,
        inputs: tuple[int, ...],
        *,
        name: str,
        shape: tuple[int, ...],
        activation: FusedActivation = FusedActivation.NONE,
        options: Mapping[Field, int] | None = None,
        quantization: Quantization | None = None,
    ) -> int:
        """Run an operator on tensors.

        Args:
            operation: what to run.
            inputs: indices of what it reads.
            name: of its result.
            shape: of its result.
            activation: what it does to its own result, where it can.
            options: the other fields of its table.
            quantization: makes the result int8; None for float32.
        """
        kind = TensorType.FLOAT32 if quantization is None else TensorType.INT8
        output = self._add(_computed(name, shape, kind, quantization))
        if quantization is not None:
            operation = operation._replace(version=operation.int8_version)
        fused = {} if operation.activation is None else {operation.activation: int(activation)}
        self.nodes.append(Node(operation, inputs, (output,), {**(options or {}), **fused}))
        return output

    def split(self, index: int, axis: int, names: tuple[str, ...], *, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Cut the last axis of a float32 tensor into as many equal parts as there are names.

        Args:
            index: what to cut.
            axis: the index of an int32 constant that holds the axis; several splits may share it.
            names: of the parts.
            shape: of each part.
        """
        outputs = tuple(self._add(Tensor(name, shape, TensorType.FLOAT32)) for name in names)
        self.nodes.append(Node(SPLIT, (axis, index), outputs, {SPLIT_COUNT: len(names)}))
        return outputs

    def quantization(self, index: int) -> Quantization | None:
        """Return what an int8 or uint8 activation's integers mean; None for a float32 tensor."""
        tensor = self.tensors[index]
        return None if tensor.scales is None else Quantization(tensor.scales[0], tensor.zero_point)

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def _computed(name: str, shape: tuple[int, ...], kind: TensorType, quantization: Quantization | None) -> Tensor:
    if quantization is None:
        return Tensor(name, shape, kind)
    scales = np.array([quantization.scale], np.float32)
    return Tensor(name, shape, kind, scales=scales, zero_point=quantization.zero_point)
