"""What our compressor writes is found sound; whatever was changed in it is found out, or is no more than a number."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from compressor import CompressionRecipe, Convolution, Flatten, Gru, Layer, MaxPool, PolicyGraph, Precision, compress
from compressor.recipe import WeightScales
from compressor.tflite_writer import operations
from compressor.tflite_writer.operations import Operation
from compressor.tflite_writer.schema import TensorType
from edge_actor.policy_file import BadPolicyFile
from edge_actor.policy_grammar import OPERATORS, TENSOR_TYPES
from edge_actor.policy_inspection import PolicyInspection

ROOM: Final = 1 << 26


def layer(outputs: int, inputs: int, activation: Any = None) -> Layer:
    rng = np.random.default_rng([outputs, inputs])
    return Layer(
        rng.standard_normal((outputs, inputs), np.float32), rng.standard_normal(outputs, np.float32), activation
    )


def make_mlp(*, dead_row: bool = False) -> PolicyGraph:
    first = layer(64, 4, "tanh")
    if dead_row:
        first.weight[7] = 0.0
    shift, scale = np.zeros(4, np.float32), np.ones(4, np.float32)
    torso = (first, layer(64, 64, "relu"))
    return PolicyGraph(torso, {"logits": layer(3, 64)}, observation_shift=shift, observation_scale=scale)


def make_images() -> PolicyGraph:
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 2)).astype(np.float32)
    torso = (Convolution(weight, np.zeros(8, np.float32), 2, "valid", "relu"), MaxPool(2, 2), Flatten(), layer(32, 128))
    return PolicyGraph(torso, {"logits": layer(3, 32)}, image_shape=(15, 15, 2))


def make_recurrent() -> PolicyGraph:
    rng = np.random.default_rng(1)
    gru = Gru(*(rng.standard_normal(shape).astype(np.float32) for shape in ((48, 64), (48, 16), (48,), (48,))))
    return PolicyGraph((layer(64, 4, "tanh"),), {"logits": layer(3, 16)}, memory=gru)


GRAPHS: Final[dict[str, Callable[[], PolicyGraph]]] = {
    "mlp": make_mlp,
    "mlp with a dead row": lambda: make_mlp(dead_row=True),
    "images": make_images,
    "recurrent": make_recurrent,
}

WRITTEN: Final = [(n, p) for n in GRAPHS for p in Precision if (n, p) != ("recurrent", Precision.INT8_FULL)]


def write(graph: PolicyGraph, precision: Precision = Precision.FLOAT32, **parts: Any) -> bytes:
    rng = np.random.default_rng(2)
    seen: Any = rng.standard_normal((64, 4)).astype(np.float32)
    if graph.image_shape:
        seen = rng.integers(0, 256, (64, *graph.image_shape)).astype(np.uint8)
    calibration = seen if precision.needs_calibration else None
    return compress(graph, CompressionRecipe(precision, **parts), metadata={"a": 1}, calibration=calibration).model


def inspect(model: bytes, *, copies: int = 4, room: int = ROOM) -> PolicyInspection:
    return PolicyInspection(model, copies=copies, memory_bytes=room)


@pytest.mark.parametrize(
    ("name", "precision", "scales"),
    [
        (name, precision, scales)
        for name, precision in WRITTEN
        for scales in WeightScales
        if scales is WeightScales.PER_CHANNEL or precision in (Precision.INT8_DYNAMIC, Precision.INT8)
    ],
)
def test_what_the_compressor_writes_is_sound_in_every_precision(name: str, precision: Precision, scales: WeightScales):
    inspect(write(GRAPHS[name](), precision, weight_scales=scales)).require_precision(str(precision))


def test_the_allow_list_is_what_the_compressor_can_write_and_nothing_else():
    written = [value for value in vars(operations).values() if isinstance(value, Operation)]
    versions: dict[int, set[int]] = {}
    for operation in written:
        versions.setdefault(int(operation.code), set()).update({operation.version, operation.int8_version})
    assert {code: set(allowed.versions) for code, allowed in OPERATORS.items()} == versions
    assert {operation.code: OPERATORS[operation.code].options for operation in written} == {
        operation.code: int(operation.options) for operation in written
    }
    assert {int(kind): kind.name.lower() for kind in TensorType} == {k: t.name for k, t in TENSOR_TYPES.items()}


def rewritten(model: bytes, change: Callable[[Any], None]) -> bytes:
    """The file, changed by a reader and writer that are not ours."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    change(parsed)
    builder = flatbuffers.Builder(len(model))
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def graph_of(model: Any) -> Any:
    return model.subgraphs[0]


def first_constant(model: Any) -> Any:
    return next(tensor for tensor in graph_of(model).tensors if tensor.buffer)


def set_code(code: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.operatorCodes[0].builtinCode = code
        model.operatorCodes[0].deprecatedBuiltinCode = min(code, 127)

    return change


def set_scales(scale: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for tensor in graph_of(model).tensors:
            if tensor.quantization is not None and tensor.quantization.scale is not None:
                tensor.quantization.scale = np.full(len(tensor.quantization.scale), scale, np.float32)

    return change


def set_of(path: str, value: Any) -> Callable[[Any], None]:
    """Sets one attribute of the first operator, operator code, constant or input, or of the model."""

    def change(model: Any) -> None:
        owner, _, name = path.rpartition(".")
        target = {
            "": model,
            "code": model.operatorCodes[0],
            "constant": first_constant(model),
            "input": graph_of(model).tensors[graph_of(model).inputs[0]],
            "operator": graph_of(model).operators[0],
            "graph": graph_of(model),
        }[owner]
        setattr(target, name, value)

    return change


def drop_scales(model: Any) -> None:
    next(t for t in graph_of(model).tensors if t.quantization is not None).quantization = None


def second_graph(model: Any) -> None:
    model.subgraphs = [graph_of(model), graph_of(model)]


def external_buffer(model: Any) -> None:
    buffer = model.buffers[first_constant(model).buffer]
    buffer.data, buffer.offset, buffer.size = None, 4096, 64


def cut_buffer(model: Any) -> None:
    buffer = model.buffers[first_constant(model).buffer]
    buffer.data = buffer.data[:-4]


def stride_of_zero(model: Any) -> None:
    operator = next(o for o in graph_of(model).operators if o.builtinOptionsType == schema.BuiltinOptions.Conv2DOptions)
    operator.builtinOptions.strideH = 0


CHANGES: Final[dict[str, tuple[str, Callable[[Any], None]]]] = {
    "an operator that policies do not need": ("operator", set_code(25)),
    "a custom operator": ("operator", set_of("code.customCode", b"Anything")),
    "control flow": ("operator", set_code(118)),
    "a later version": ("operator", set_of("code.version", 99)),
    "two numbers for one operator": ("operator", set_of("code.deprecatedBuiltinCode", 1)),
    "custom options": ("operator", set_of("operator.customOptions", [1, 2, 3])),
    "a sparse tensor": ("operator", set_of("constant.sparsity", schema.SparsityParametersT())),
    "a variable": ("operator", set_of("input.isVariable", True)),
    "a text": ("tensor", set_of("constant.type", schema.TensorType.STRING)),
    "a double": ("tensor", set_of("constant.type", schema.TensorType.FLOAT64)),
    "a shape of 0": ("tensor", set_of("input.shape", [1, 0])),
    "a negative shape": ("tensor", set_of("input.shape", [1, -4])),
    "a huge shape": ("tensor", set_of("input.shape", [1, 1 << 30])),
    "seven dimensions": ("tensor", set_of("input.shape", [1] * 7)),
    "an open width": ("tensor", set_of("input.shapeSignature", [-1, -1])),
    "a buffer that is not there": ("tensor", set_of("constant.buffer", 999)),
    "fewer numbers than its shape says": ("tensor", cut_buffer),
    "numbers outside of the file": ("operator", external_buffer),
    "an input that is not there": ("operator", set_of("operator.inputs", [0, 999])),
    "no input": ("operator", set_of("operator.inputs", [])),
    "a left out input": ("operator", set_of("operator.inputs", [0, -1])),
    "an output that is its input": ("operator", set_of("operator.outputs", [0])),
    "an output that is not there": ("tensor", set_of("operator.outputs", [999])),
    "an operator code that is not there": ("operator", set_of("operator.opcodeIndex", 99)),
    "options of another operator": ("operator", set_of("operator.builtinOptionsType", 1)),
    "an output that nothing computes": ("tensor", set_of("graph.outputs", [999])),
    "two graphs": ("operator", second_graph),
    "another format": ("file", set_of("version", 4)),
    "scales of 0": ("scale", set_scales(0.0)),
    "scales that are not a number": ("scale", set_scales(float("nan"))),
    "infinite scales": ("scale", set_scales(float("inf"))),
    "negative scales": ("scale", set_scales(-0.1)),
    "absurd scales": ("scale", set_scales(1e30)),
    "integers without scales": ("scale", drop_scales),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_means_something_is_refused_for_its_reason(name: str):
    reason, change = CHANGES[name]
    with pytest.raises(BadPolicyFile) as refused:
        inspect(rewritten(write(make_mlp(), Precision.INT8_DYNAMIC), change))
    assert refused.value.reason == reason, refused.value


def test_a_stride_of_zero_is_refused():
    with pytest.raises(BadPolicyFile, match="strides"):
        inspect(rewritten(write(make_images()), stride_of_zero))


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.INT8_DYNAMIC])
def test_float32_where_another_type_is_promised_is_refused(precision: Precision):
    with pytest.raises(BadPolicyFile) as refused:
        inspect(write(make_mlp(), Precision.FLOAT32)).require_precision(str(precision))
    assert refused.value.reason == "recipe"


def test_more_activations_than_there_is_room_for_are_refused():
    model = write(make_mlp())
    inspect(model, copies=8, room=100_000)
    with pytest.raises(BadPolicyFile) as refused:
        inspect(model, copies=800, room=100_000)
    assert refused.value.reason == "memory"


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -4096, -1])
def test_a_file_that_was_cut_off_is_refused(keep: int):
    model = write(make_mlp(), Precision.INT8_DYNAMIC)
    # A flatbuffer begins with its tables and ends with its first buffers: our writer's last byte is a weight's.
    with pytest.raises(BadPolicyFile):
        inspect(model[:keep])


MODEL: Final = write(make_mlp(), Precision.INT8_DYNAMIC)


@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), min_size=1, max_size=20))
def test_any_overwritten_file_is_sound_or_refused(changes: list[tuple[int, int]]):
    model = bytearray(MODEL)
    for position, value in changes:
        model[position] = value
    with suppress(BadPolicyFile):
        inspect(bytes(model))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(tail: bytes):
    with pytest.raises(BadPolicyFile):
        inspect(tail[:4].ljust(4, b"\x10") + b"TFL3" + tail[4:])
