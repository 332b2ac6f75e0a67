"""What litert-torch made of a module, with the batch opened: read from its conversions for 2 and for 3 rows.

litert-torch writes one batch into shapes, and into the constants by which RESHAPE and SLICE make shapes. Resized, such
a file fails in XNNPACK. What differs between the two conversions is the batch, and nothing else may.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compressor.layer import Float32Array, Float64Array, UnsupportedPolicyError
from compressor.tflite_writer.builder import BATCH
from compressor.tflite_writer.schema import BuiltinOperator, TensorType

_DTYPES: Final[dict[int, type[np.generic]]] = {TensorType.FLOAT32: np.float32, TensorType.INT32: np.int32}
SLICE: Final = 65
_OPEN_SHAPES: Final = {BuiltinOperator.RESHAPE: 1, SLICE: 2}
"""Which input of an operator is a shape, and says with -1 what is left of the batch."""


@dataclass(frozen=True, slots=True, eq=False)
class LoweredTensor:
    """A tensor of the graph.

    Attributes:
        layer: the module's layer that it comes from, for names and sentences.
        shape: for one observation; `BATCH` where the first side is the batch.
        kind: its element type in the file's numbers.
        values: of a constant; None for what is computed.
    """

    layer: str
    shape: tuple[int, ...]
    kind: int
    values: NDArray[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class LoweredNode:
    """An operator at work.

    Attributes:
        code: which, by the file's number.
        name: as TFLite calls it.
        inputs: indices of tensors, -1 for one that is left out.
        outputs: the same.
        options: the schema's object with its options, or None.
    """

    code: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


@dataclass(frozen=True, slots=True, eq=False)
class LoweredGraph:
    """Tensors by their index, and the operators that compute them in order.

    Attributes:
        tensors: those that the nodes read and write.
        observation: index of the input.
        heads: index of each output that depends on the observation.
        settled: float32 `[out]` of each output that does not: a `log_std` that is a parameter.
        nodes: those that the heads need.
    """

    tensors: Mapping[int, LoweredTensor]
    nodes: tuple[LoweredNode, ...]
    observation: int
    heads: Mapping[str, int]
    settled: Mapping[str, Float32Array]


def read_graph(two: Any, three: Any, *, outputs: Mapping[str, Float64Array]) -> LoweredGraph:  # noqa: ANN401
    """Read the conversions of one module for 2 and for 3 rows (`ModelT`, the schema's class).

    Args:
        two: for 2 rows.
        three: for 3 rows.
        outputs: what the module gives for some observations, `[N, out]` each.

    Raises:
        UnsupportedPolicyError: they differ in more than the batch, or logits or means do not depend on observations.
    """
    nodes, others = (_nodes(model) for model in (two, three))
    if [(n.code, n.inputs, n.outputs) for n in nodes] != [(n.code, n.inputs, n.outputs) for n in others]:
        raise UnsupportedPolicyError(
            "the module computes something else for another number of observations: the first axis is the batch, any N"
        )
    signature = two.signatureDefs[0]
    observation = int(signature.inputs[0].tensorIndex)
    heads = {entry.name.decode(): int(entry.tensorIndex) for entry in signature.outputs}
    known = _reached(nodes, observation)
    settled = {name: outputs[name][0].astype(np.float32) for name, index in heads.items() if index not in known}
    heads = {name: index for name, index in heads.items() if index in known}
    _require_heads(heads, settled, observation)
    needed = _needed(nodes, set(heads.values()))
    return LoweredGraph(_tensors(two, three, needed), needed, observation, heads, settled)


def _reached(nodes: Sequence[LoweredNode], observation: int) -> set[int]:
    """The tensors that depend on the observation."""
    known = {observation}
    for node in nodes:
        if known.intersection(node.inputs):
            known.update(node.outputs)
    return known


def _require_heads(heads: Mapping[str, int], settled: Mapping[str, object], observation: int) -> None:
    fixed = set(settled) - {"log_std"}
    if fixed:
        raise UnsupportedPolicyError(f"the module's {', '.join(sorted(fixed))} do not depend on the observation")
    if observation in heads.values() or len(set(heads.values())) < len(heads):
        raise UnsupportedPolicyError(f"the module gives its observation, or one tensor twice, as {', '.join(heads)}")


def _needed(nodes: Sequence[LoweredNode], wanted: set[int]) -> tuple[LoweredNode, ...]:
    kept: list[LoweredNode] = []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return tuple(reversed(kept))


def _nodes(model: Any) -> list[LoweredNode]:  # noqa: ANN401 - generated
    names = {value: name for name, value in vars(_operators()).items() if isinstance(value, int)}
    codes = [int(code.builtinCode) for code in model.operatorCodes]
    return [
        LoweredNode(
            code := codes[operator.opcodeIndex],
            names.get(code, f"operator {code}"),
            tuple(map(int, operator.inputs)),
            tuple(map(int, operator.outputs)),
            operator.builtinOptions,
        )
        for operator in model.subgraphs[0].operators
    ]


def _operators() -> Any:  # noqa: ANN401 - generated
    from ai_edge_litert import schema_py_generated  # noqa: PLC0415 - of the learner's extra, and large

    return schema_py_generated.BuiltinOperator


def _tensors(two: Any, three: Any, nodes: Sequence[LoweredNode]) -> dict[int, LoweredTensor]:  # noqa: ANN401 - generated
    shapes = {node.inputs[slot] for node in nodes for code, slot in _OPEN_SHAPES.items() if node.code == code}
    used = {index for node in nodes for index in (*node.inputs, *node.outputs) if index >= 0}
    return {index: _tensor(two, three, index, is_shape=index in shapes) for index in sorted(used)}


def _tensor(two: Any, three: Any, index: int, *, is_shape: bool) -> LoweredTensor:  # noqa: ANN401 - generated
    mine, other = (model.subgraphs[0].tensors[index] for model in (two, three))
    layer = _layer(mine.name.decode(errors="replace"))
    shape, others = ([] if each.shape is None else list(map(int, each.shape)) for each in (mine, other))
    values, other_values = _values(two, mine), _values(three, other)
    if len(shape) != len(others):
        raise _baked(layer)
    if values is None or other_values is None:
        sides = [_open(a, b, layer) for a, b in zip(shape, others, strict=True)]
        if shape and (shape[0], others[0]) == (2, 3):
            sides[0] = BATCH
        return LoweredTensor(layer, tuple(sides), int(mine.type), None)
    if shape != others:
        raise _baked(layer)
    if is_shape:
        values = _open_constant(values.tolist(), other_values.tolist(), layer)
    elif not np.array_equal(values, other_values):
        raise _baked(layer)
    return LoweredTensor(layer, tuple(shape), int(mine.type), values)


def _open(two: int, three: int, layer: str) -> int:
    """What a side of 2 rows and of 3 rows is of one."""
    if two == three:
        return two
    if 3 * two != 2 * three:
        raise _baked(layer)
    return two // 2


def _open_constant(two: list[int], three: list[int], layer: str) -> NDArray[np.int32]:
    """A shape that says -1 where the batch decides, which it can only once."""
    open_sides = [axis for axis, (a, b) in enumerate(zip(two, three, strict=True)) if a != _open(a, b, layer)]
    if len(open_sides) > 1:
        raise _baked(layer)
    return np.array([BATCH if axis in open_sides else side for axis, side in enumerate(two)], np.int32)


def _baked(layer: str) -> UnsupportedPolicyError:
    return UnsupportedPolicyError(
        f"{layer} is made for one number of observations only: take the batch from the tensor (x.shape[0], -1 in a "
        "reshape) and create no tensors of its size"
    )


def _values(model: Any, tensor: Any) -> NDArray[Any] | None:  # noqa: ANN401 - generated
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    raw = np.asarray(data, np.uint8).tobytes()
    return np.frombuffer(raw, _DTYPES.get(tensor.type, np.uint8)).copy()


def _layer(name: str) -> str:
    """The path of a layer in the user's module: of `p.PolicyModule/p.Net_policy/torch.nn.Linear_fc;` it is `fc`."""
    _, *parts = name.split(";", maxsplit=1)[0].split("/")
    attributes = [part.rpartition(".")[2].lstrip("_").partition("_")[2] for part in parts]
    return ".".join(attributes[1:]) or "the module"
