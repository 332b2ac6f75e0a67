"""Turn a collected graph into the bytes of a `.tflite`.

A file is a model: operator codes, buffers, one subgraph of tensors and operators, a signature that names the
inputs and outputs, and metadata. Buffer 0 is empty by convention and stands for "computed at run time".
"""

from collections.abc import Mapping

import numpy as np

from compressor.tflite_writer import schema
from compressor.tflite_writer.builder import BATCH, GraphBuilder, Node, Tensor
from compressor.tflite_writer.flatbuffer import FlatbufferWriter
from compressor.tflite_writer.operations import Operation

SIGNATURE_KEY = "serving_default"
_DESCRIPTION = "EdgeRL policy"

# Room for tables and names per tensor or operator; the buffer doubles if this is ever too little.
_TABLE_BYTES = 256


def serialize(graph: GraphBuilder, *, metadata: Mapping[str, bytes]) -> bytes:
    """Write the graph as a file.

    Args:
        graph: a complete graph, with its inputs and outputs declared.
        metadata: what the file says about itself; each value becomes a buffer found by its name.

    Returns:
        The `.tflite`; equal graphs give equal bytes.
    """
    constants = [tensor.data for tensor in graph.tensors if tensor.data]
    payloads = [b"", *constants, *metadata.values()]
    flat = FlatbufferWriter(capacity_bytes=_capacity(graph, payloads))
    root = flat.table(
        {
            schema.MODEL_VERSION: schema.SCHEMA_VERSION,
            schema.MODEL_OPERATOR_CODES: _operator_codes(flat, _operations(graph)),
            schema.MODEL_SUBGRAPHS: flat.tables([_subgraph(flat, graph)]),
            schema.MODEL_DESCRIPTION: flat.text(_DESCRIPTION),
            schema.MODEL_BUFFERS: flat.tables([_buffer(flat, payload) for payload in payloads]),
            schema.MODEL_METADATA: _metadata(flat, list(metadata), first_buffer=1 + len(constants)),
            schema.MODEL_SIGNATURE_DEFS: flat.tables([_signature(flat, graph)]),
        }
    )
    return flat.finish(root, identifier=schema.FILE_IDENTIFIER)


def _capacity(graph: GraphBuilder, payloads: list[bytes]) -> int:
    aligned = sum(len(payload) + schema.BUFFER_ALIGNMENT for payload in payloads)
    return aligned + _TABLE_BYTES * (len(graph.tensors) + len(graph.nodes) + len(payloads))


def _operations(graph: GraphBuilder) -> list[Operation]:
    return list(dict.fromkeys(node.operation for node in graph.nodes))


def _operator_codes(flat: FlatbufferWriter, operations: list[Operation]) -> int:
    return flat.tables(
        [
            flat.table(
                {
                    schema.OPERATOR_CODE_DEPRECATED_CODE: min(operation.code, schema.LAST_DEPRECATED_CODE),
                    schema.OPERATOR_CODE_VERSION: operation.version,
                    schema.OPERATOR_CODE_CODE: operation.code,
                }
            )
            for operation in operations
        ]
    )


def _buffer(flat: FlatbufferWriter, payload: bytes) -> int:
    return flat.table({schema.BUFFER_DATA: flat.data(payload)} if payload else {})


def _metadata(flat: FlatbufferWriter, names: list[str], *, first_buffer: int) -> int:
    return flat.tables(
        [
            flat.table({schema.METADATA_NAME: flat.text(name), schema.METADATA_BUFFER: buffer})
            for buffer, name in enumerate(names, first_buffer)
        ]
    )


def _subgraph(flat: FlatbufferWriter, graph: GraphBuilder) -> int:
    return flat.table(
        {
            schema.SUBGRAPH_TENSORS: _tensors(flat, graph.tensors),
            schema.SUBGRAPH_INPUTS: flat.integers(graph.inputs),
            schema.SUBGRAPH_OUTPUTS: flat.integers(graph.outputs),
            schema.SUBGRAPH_OPERATORS: _nodes(flat, graph),
            schema.SUBGRAPH_NAME: flat.text("main"),
        }
    )


def _tensors(flat: FlatbufferWriter, tensors: list[Tensor]) -> int:
    offsets: list[int] = []
    buffer = 0
    for tensor in tensors:
        buffer += bool(tensor.data)
        offsets.append(_tensor(flat, tensor, buffer=buffer if tensor.data else 0))
    return flat.tables(offsets)


def _tensor(flat: FlatbufferWriter, tensor: Tensor, *, buffer: int) -> int:
    fields = {
        schema.TENSOR_SHAPE: flat.integers([1 if size == BATCH else size for size in tensor.shape]),
        schema.TENSOR_TYPE: tensor.type,
        schema.TENSOR_BUFFER: buffer,
        schema.TENSOR_NAME: flat.text(tensor.name),
    }
    if BATCH in tensor.shape:
        fields[schema.TENSOR_SHAPE_SIGNATURE] = flat.integers(tensor.shape)
    if tensor.scales is not None:
        fields[schema.TENSOR_QUANTIZATION] = flat.table(
            {
                schema.QUANTIZATION_SCALE: flat.numbers(tensor.scales),
                schema.QUANTIZATION_ZERO_POINT: flat.numbers(np.full(tensor.scales.size, tensor.zero_point, np.int64)),
            }
        )
    return flat.table(fields)


def _nodes(flat: FlatbufferWriter, graph: GraphBuilder) -> int:
    codes = {operation: index for index, operation in enumerate(_operations(graph))}
    return flat.tables([_node(flat, node, code=codes[node.operation]) for node in graph.nodes])


def _node(flat: FlatbufferWriter, node: Node, *, code: int) -> int:
    fields = {
        schema.OPERATOR_OPCODE_INDEX: code,
        schema.OPERATOR_INPUTS: flat.integers(node.inputs),
        schema.OPERATOR_OUTPUTS: flat.integers(node.outputs),
    }
    if node.operation.options:
        fields[schema.OPERATOR_OPTIONS_TYPE] = node.operation.options
        fields[schema.OPERATOR_OPTIONS] = flat.table(node.options)
    return flat.table(fields)


def _signature(flat: FlatbufferWriter, graph: GraphBuilder) -> int:
    return flat.table(
        {
            schema.SIGNATURE_INPUTS: _names(flat, graph, graph.inputs),
            schema.SIGNATURE_OUTPUTS: _names(flat, graph, graph.outputs),
            schema.SIGNATURE_KEY: flat.text(SIGNATURE_KEY),
        }
    )


def _names(flat: FlatbufferWriter, graph: GraphBuilder, indices: list[int]) -> int:
    return flat.tables(
        [
            flat.table(
                {
                    schema.TENSOR_MAP_NAME: flat.text(graph.tensors[index].name),
                    schema.TENSOR_MAP_TENSOR_INDEX: index,
                }
            )
            for index in indices
        ]
    )
