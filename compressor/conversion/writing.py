"""Write a lowered graph with our own writer: weights are stored as the recipe says, names are those that boards know.

An operator that boards do not have is refused here, with the layer that it comes from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from compressor.conversion.lowered_graph import SLICE, LoweredGraph, LoweredNode
from compressor.layer import UnsupportedPolicyError
from compressor.quantization import Quantization
from compressor.recipe import CompressionRecipe, Precision
from compressor.tflite_writer import operations, schema
from compressor.tflite_writer.arithmetic import FloatArithmetic, float_arithmetic
from compressor.tflite_writer.builder import BATCH, GraphBuilder
from compressor.tflite_writer.operations import Operation
from compressor.tflite_writer.policy import METADATA_NAME, OBSERVATION, as_json
from compressor.tflite_writer.schema import BuiltinOperator, Field, FusedActivation, TensorType
from compressor.tflite_writer.serializer import serialize

_DEPTHWISE_CONV_2D: Final = 4
_CAST: Final = 53
_ADVICE: Final = (
    "boards know linear layers, 2-D convolutions, max pooling, ReLU, LeakyReLU, ELU, tanh, sigmoid, SiLU, GELU, batch, "
    "layer and RMS norms, sums, differences, products, clamping, means, concatenation and plain slices"
)
_HINTS: Final = {
    "DEPTHWISE_CONV_2D": "set groups=1",
    "LOG": "return logits, not log-probabilities, and use no softplus",
    "REDUCE_MAX": "return logits, not probabilities",
    "SOFTMAX": "return logits, not probabilities",
    "PADV2": "pad a convolution instead of a pooling",
}

_OPERATIONS: Final = {
    operation.code: operation
    for operation in (
        *(operations.ADD, operations.SUBTRACT, operations.MULTIPLY, operations.MAXIMUM, operations.MINIMUM),
        *(operations.RELU, operations.TANH, operations.LOGISTIC, operations.GELU, operations.EXP, operations.RSQRT),
        *(operations.SQUARED_DIFFERENCE, operations.MEAN, operations.CONCATENATION, operations.MAX_POOL_2D),
        *(operations.RESHAPE, operations.TRANSPOSE, operations.PAD),
    )
}
_WINDOW: Final = {
    schema.WINDOW_PADDING: "padding",
    schema.WINDOW_STRIDE_WIDTH: "strideW",
    schema.WINDOW_STRIDE_HEIGHT: "strideH",
}
_OPTIONS: Final[Mapping[BuiltinOperator, Mapping[Field, str]]] = {
    BuiltinOperator.CONV_2D: {
        **_WINDOW,
        schema.CONV_2D_DILATION_WIDTH: "dilationWFactor",
        schema.CONV_2D_DILATION_HEIGHT: "dilationHFactor",
    },
    BuiltinOperator.MAX_POOL_2D: {
        **_WINDOW,
        schema.POOL_2D_FILTER_WIDTH: "filterWidth",
        schema.POOL_2D_FILTER_HEIGHT: "filterHeight",
    },
    BuiltinOperator.MEAN: {schema.REDUCER_KEEP_DIMS: "keepDims"},
    BuiltinOperator.GELU: {schema.GELU_APPROXIMATE: "approximate"},
    BuiltinOperator.CONCATENATION: {schema.CONCATENATION_AXIS: "axis"},
}
"""The options that are copied, by the names that the schema's classes give them; others are refused or mean nothing."""


def write_graph(graph: LoweredGraph, recipe: CompressionRecipe, *, metadata: Mapping[str, object]) -> bytes:
    """Write a graph as a policy file.

    Raises:
        UnsupportedPolicyError: boards do not have one of its operators; says which layer it comes from.
        InvalidPolicyError: a weight does not fit into the precision.
    """
    writer = _GraphWriter(graph, float_arithmetic(recipe.precision, recipe.weight_scales))
    writer.observation()
    for node in graph.nodes:
        writer.node(node)
    writer.heads()
    return serialize(writer.model, metadata={METADATA_NAME: as_json(metadata)})


@dataclass(slots=True)
class _GraphWriter:
    graph: LoweredGraph
    arithmetic: FloatArithmetic
    model: GraphBuilder = field(default_factory=GraphBuilder)
    written: dict[int, int] = field(default_factory=dict[int, int])
    """From the graph's tensors to those of the file."""

    def observation(self) -> None:
        """Declare the input."""
        shape = self.graph.tensors[self.graph.observation].shape
        is_image = self.graph.tensors[self.graph.observation].kind == TensorType.UINT8
        # A pixel's number is itself: dividing by 255 is the module's own affair.
        pixels = Quantization(np.float32(1), 0) if is_image else None
        kind = TensorType.UINT8 if is_image else TensorType.FLOAT32
        self.written[self.graph.observation] = self.model.input(OBSERVATION, shape, kind=kind, quantization=pixels)

    def node(self, node: LoweredNode) -> None:
        """Add an operator."""
        if node.code == _CAST and node.inputs == (self.graph.observation,):
            self._add(node, operations.DEQUANTIZE_UINT8, (self.written[self.graph.observation],))
        elif node.code in (BuiltinOperator.FULLY_CONNECTED, BuiltinOperator.CONV_2D, _DEPTHWISE_CONV_2D):
            self._affine(node)
        elif node.code == SLICE:
            self._slice(node)
        elif node.code in _OPERATIONS:
            inputs = tuple(self._tensor(index, node) for index in node.inputs)
            self._add(node, _OPERATIONS[BuiltinOperator(node.code)], inputs)
        else:
            raise self._unsupported(node, _HINTS.get(node.name, _ADVICE))

    def heads(self) -> None:
        """Declare the outputs; one that is a parameter becomes a layer with zero weights."""
        mean = self.graph.heads.get("mean")
        self.model.outputs += [self.written[index] for index in self.graph.heads.values()]
        for name, values in self.graph.settled.items():
            if mean is None:
                raise UnsupportedPolicyError(f"{name} does not depend on the observation, nor does a mean beside it")
            exact = float_arithmetic(Precision.FLOAT32, CompressionRecipe().weight_scales)
            source, size = self.written[mean], values.size
            layer = exact.parameters(self.model, name, np.zeros((size, size), np.float32), values, inputs=source)
            inputs = (source, layer.weight, layer.bias)
            self.model.outputs.append(self.model.apply(layer.operation, inputs, name=name, shape=(BATCH, size)))

    def _affine(self, node: LoweredNode) -> None:
        """Add what has a weight, stored as the recipe says."""
        source, weight, *biases = node.inputs
        kernels, result = self.graph.tensors[weight], self.graph.tensors[node.outputs[0]]
        if kernels.values is None:
            raise self._unsupported(node, "multiply by constant weights only")
        matrix = kernels.values.reshape(kernels.shape)
        if node.code == _DEPTHWISE_CONV_2D:
            # Of one channel it is a plain convolution, and litert-torch makes those of grey images so.
            matrix = np.ascontiguousarray(matrix.transpose(3, 1, 2, 0))
        if self.graph.tensors[source].shape[-1] != matrix.shape[-1]:
            raise self._unsupported(node, "set groups=1")
        if len(result.shape) != matrix.ndim:
            # FULLY_CONNECTED can keep more axes, in a version that is not needed otherwise.
            raise self._unsupported(node, f"give it [N, {matrix.shape[-1]}]")
        bias = next((self.graph.tensors[index].values for index in biases if index >= 0), None)
        layer = self.arithmetic.parameters(
            self.model,
            f"{result.layer}.{node.outputs[0]}",
            matrix,
            np.zeros(len(matrix), np.float32) if bias is None else bias,
            inputs=self.written[source],
        )
        self._add(node, layer.operation, (self.written[source], layer.weight, layer.bias))

    def _slice(self, node: LoweredNode) -> None:
        """Add a cut; the batch is taken whole."""
        source, *indices = node.inputs
        begins, sizes = (self.graph.tensors[index].values for index in indices)
        if begins is None or sizes is None or (begins[sizes == BATCH] != 0).any():
            raise self._unsupported(node, "cut at fixed places, and never along the batch")
        whole = sum(1 << axis for axis, size in enumerate(sizes.tolist()) if size == BATCH)
        name = self._name(node.outputs[0])
        ends = begins + np.abs(sizes)
        cut = {"begin": begins, "end": ends, "strides": np.ones_like(begins)}
        constants = [self.model.constant(f"{name}.{kind}", values) for kind, values in cut.items()]
        masks = {schema.STRIDED_SLICE_BEGIN_MASK: whole, schema.STRIDED_SLICE_END_MASK: whole}
        self._add(node, operations.STRIDED_SLICE, (self.written[source], *constants), masks)

    def _add(
        self,
        node: LoweredNode,
        operation: Operation,
        inputs: tuple[int, ...],
        options: Mapping[Field, int] | None = None,
    ) -> None:
        fused = int(getattr(node.options, "fusedActivationFunction", 0) or 0)
        if fused not in set(FusedActivation) or (fused and operation.activation is None):
            raise self._unsupported(node, "put the activation into a layer of its own")
        copied = {at: int(getattr(node.options, name)) for at, name in _OPTIONS.get(operation.code, {}).items()}
        (output,) = node.outputs
        self.written[output] = self.model.apply(
            operation,
            inputs,
            name=self._name(output),
            shape=self.graph.tensors[output].shape,
            activation=FusedActivation(fused),
            options=copied if options is None else options,
        )

    def _tensor(self, index: int, node: LoweredNode) -> int:
        """The file's tensor of an input: a computed one, or a constant, which is added."""
        tensor = self.graph.tensors[index]
        if index not in self.written:
            if tensor.values is None or tensor.kind not in (TensorType.FLOAT32, TensorType.INT32):
                raise self._unsupported(node, _ADVICE)
            constant: Any = tensor.values.reshape(tensor.shape)
            self.written[index] = self.model.constant(f"{tensor.layer}.{index}", constant)
        return self.written[index]

    def _name(self, index: int) -> str:
        names = {at: name for name, at in self.graph.heads.items()}
        return names.get(index, f"{self.graph.tensors[index].layer}.{index}")

    def _unsupported(self, node: LoweredNode, advice: str) -> UnsupportedPolicyError:
        layer = self.graph.tensors[node.outputs[0]].layer
        return UnsupportedPolicyError(f"{layer} needs {node.name}, which boards do not have: {advice}")
