"""Operators that follow indices are let pass only where these are constants, and stay within what is read."""

from collections.abc import Callable

import numpy as np
import pytest

from compressor.tflite_writer import operations, schema
from compressor.tflite_writer.builder import BATCH, GraphBuilder
from compressor.tflite_writer.operations import Operation
from compressor.tflite_writer.schema import Field, TensorType
from compressor.tflite_writer.serializer import serialize
from edge_actor.policy_file import BadPolicyFile
from edge_actor.policy_inspection import PolicyInspection

MASKS = {schema.STRIDED_SLICE_BEGIN_MASK: 1, schema.STRIDED_SLICE_END_MASK: 1}
NEW_AXIS = Field(3, schema.STRIDED_SLICE_END_MASK.put)


def file_of(operation: Operation, *indices: object, options: dict[Field, int] | None = None) -> bytes:
    """A graph of one operator, which reads [N, 8, 6]."""
    model = GraphBuilder()
    seen = model.input("observation", (BATCH, 8, 6))
    told = [model.constant(f"indices.{place}", np.array(each, np.int32)) for place, each in enumerate(indices)]
    model.outputs.append(
        model.apply(operation, (seen, *told), name="logits", shape=(BATCH, 8, 6), options=options or {})
    )
    return serialize(model, metadata={})


def inspect(model: bytes) -> None:
    PolicyInspection(model, copies=4, memory_bytes=1 << 20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: file_of(operations.TRANSPOSE, [0, 2, 1]),
        lambda: file_of(operations.MEAN, [1, 2]),
        lambda: file_of(operations.PAD, [[0, 0], [1, 1], [2, 0]]),
        lambda: file_of(operations.RESHAPE, [-1, 48]),
        lambda: file_of(operations.STRIDED_SLICE, [0, 2, 0], [1, 8, 3], [1, 1, 1], options=MASKS),
    ],
)
def test_indices_within_what_is_read_pass(make: Callable[[], bytes]):
    inspect(make())


@pytest.mark.parametrize(
    ("operation", "indices"),
    [
        (operations.TRANSPOSE, ([0, 1, 1],)),
        (operations.TRANSPOSE, ([0, 1, 3],)),
        (operations.TRANSPOSE, ([0, 1],)),
        (operations.MEAN, ([3],)),
        (operations.MEAN, ([-1],)),
        (operations.MEAN, ([1, 1],)),
        (operations.PAD, ([[0, 0], [0, 0], [0, 100_000]],)),
        (operations.PAD, ([[0, 0], [0, 0], [-5, 0]],)),
        (operations.PAD, ([[0, 0], [0, 0]],)),
        (operations.RESHAPE, ([-1, -1],)),
        (operations.RESHAPE, ([-2, 48],)),
        (operations.RESHAPE, ([1 << 30, 48],)),
        (operations.STRIDED_SLICE, ([0, 2, 0], [1, 9, 3], [1, 1, 1])),
        (operations.STRIDED_SLICE, ([0, -1, 0], [1, 8, 3], [1, 1, 1])),
        (operations.STRIDED_SLICE, ([0, 3, 0], [1, 3, 3], [1, 1, 1])),
        (operations.STRIDED_SLICE, ([0, 2, 0], [1, 8, 3], [1, 0, 1])),
        (operations.STRIDED_SLICE, ([0, 2], [1, 8], [1, 1])),
    ],
)
def test_indices_beyond_what_is_read_are_refused(operation: Operation, indices: tuple[object, ...]):
    with pytest.raises(BadPolicyFile, match="is told") as refused:
        inspect(file_of(operation, *indices, options=MASKS if len(indices) > 1 else None))
    assert refused.value.reason == "operator"


def test_indices_that_are_computed_are_refused():
    model = GraphBuilder()
    seen = model.input("observation", (BATCH, 8, 6))
    axes = model.input("axes", (1,), kind=TensorType.INT32)
    model.outputs.append(model.apply(operations.MEAN, (seen, axes), name="logits", shape=(BATCH, 8)))
    with pytest.raises(BadPolicyFile, match="something computed"):
        inspect(serialize(model, metadata={}))


def test_a_cut_that_adds_an_axis_is_refused():
    with pytest.raises(BadPolicyFile, match="adds or takes axes away"):
        inspect(file_of(operations.STRIDED_SLICE, [0, 2, 0], [1, 8, 3], [1, 1, 1], options={**MASKS, NEW_AXIS: 2}))
