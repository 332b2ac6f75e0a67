"""Read a policy file without running it, and refuse whatever our compressor would not have written.

An interpreter is a large program in C++ that believes much of what a file says. So nothing reaches it, not even in the
checker, before every table was walked here: operators, tensors, buffers, scales, and the order in which they are used.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_actor.flat_tables import BrokenTables, FlatTables
from edge_actor.policy_file import IDENTIFIER, BadPolicyFile
from edge_actor.policy_grammar import FIELDS, OPERATORS, TENSOR_TYPES, WEIGHTED, WINDOWED
from edge_actor.policy_indices import are_indices_sound, has_indices

_SCHEMA_VERSION: Final = 3
_MOST_TABLES: Final = 4096
_LARGEST_SIDE: Final = 1 << 20
_MOST_DIMENSIONS: Final = 4
_LARGEST_WINDOW: Final = 256
_DILATIONS: Final = (4, 5)
"""Slots of CONV_2D's options; 1 where they are not there."""
_MASKS: Final = frozenset({0, 1})
"""Slots of STRIDED_SLICE's options that leave its axes as they are."""
_SMALLEST_SCALE: Final = float(np.finfo(np.float32).tiny)
"""What the compressor gives a row of nothing but zeros."""
_LARGEST_SCALE: Final = 1e6
_SMALLEST_INT8_WEIGHT: Final = 1024
"""Smaller matrices are float32 in every precision: int8 would save next to nothing."""
_ZERO_POINTS: Final = {"int8": (-128, 127), "uint8": (0, 255), "int32": (0, 0), "int4": (0, 0)}
_LARGEST_FLOAT_WEIGHT: Final = {
    "float16": 0,
    "int8-dynamic": _SMALLEST_INT8_WEIGHT - 1,
    "int4-dynamic": _SMALLEST_INT8_WEIGHT - 1,
    "int8-full": 0,
}
"""By precision: how many elements a matrix in float32 may have where another type is promised. `int8` is not here: it
promises float32 for the first layer and the heads, of whatever size."""

_ANY: Final = math.inf
_KEEP: Final = "keep("
"""How the step of a recipe begins that names the layers which stay in float32."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    kind: str
    shape: tuple[int, ...]
    buffer: int

    @property
    def is_constant(self) -> bool:
        return self.buffer > 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class PolicyInspection:
    """What is inside of a policy file, found sound on construction.

    Args:
        model: The file.
        copies: The batch that it is to run with.
        memory_bytes: What its activations may take then.

    Raises:
        BadPolicyFile: It is not one of ours, with the reason: `file`, `operator`, `tensor`, `scale` or `memory`.
    """

    def __init__(self, model: bytes, *, copies: int, memory_bytes: int) -> None:
        if model[4:8] != IDENTIFIER:
            raise BadPolicyFile("not a TFLite file: the identifier TFL3 is missing")
        self._tables = FlatTables(model)
        self._weights: list[_Tensor] = []
        self._inputs: dict[str, tuple[int, ...]] = {}
        try:
            self._inspect(copies, memory_bytes)
        except BrokenTables as error:
            raise BadPolicyFile(f"the file's tables are broken or point outside of it: {error}") from error

    def require_precision(self, recipe: str) -> None:
        """Refuse weights of another type than the recipe promises.

        Raises:
            BadPolicyFile: With the reason `recipe`.
        """
        steps = recipe.split("+")
        largest = min((_LARGEST_FLOAT_WEIGHT.get(step, _ANY) for step in steps), default=_ANY)
        kept = [block for step in steps if step.startswith(_KEEP) for block in step[len(_KEEP) : -1].split(",")]
        for tensor in self._weights:
            is_kept = any(tensor.name.startswith(f"{block}.") for block in kept)
            if tensor.kind == "float32" and tensor.elements > largest and not is_kept:
                raise BadPolicyFile(
                    f"the recipe {recipe} promises no float32 weight of {tensor.elements} numbers, and {tensor.name} "
                    "is one",
                    reason="recipe",
                )

    def require_inputs(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Refuse other inputs than these; a runtime would bend the first ones to what it is given, and never fill more.

        Args:
            shapes: Of one copy, by name.

        Raises:
            BadPolicyFile: With the reason `shape`.
        """
        if self._inputs != shapes:
            raise BadPolicyFile(f"expected the inputs {shapes}, got {self._inputs}", reason="shape")

    def _inspect(self, copies: int, memory_bytes: int) -> None:
        tables = self._tables
        model = tables.root()
        self._require_fields("model", model)
        if tables.number(model, 0, "uint32") != _SCHEMA_VERSION:
            raise BadPolicyFile(f"expected version {_SCHEMA_VERSION} of the format")
        self._buffers = [tables.content(self._checked("buffer", buffer), 0) for buffer in self._list(model, 4)]
        if not self._buffers or len(self._buffers[0]):
            raise BadPolicyFile("expected an empty first buffer, which stands for what is computed", reason="tensor")
        for kind, slot in (("metadata", 6), ("signature", 7)):
            for table in self._list(model, slot):
                self._require_fields(kind, table)
        self._codes = [self._operator_code(table) for table in self._list(model, 1)]
        subgraphs = self._list(model, 2)
        if len(subgraphs) != 1:
            raise BadPolicyFile(f"expected one graph, got {len(subgraphs)}", reason="operator")
        graph = self._checked("subgraph", subgraphs[0])
        self._tensors = [self._tensor(table) for table in self._list(graph, 0)]
        activations = sum(4 * tensor.elements for tensor in self._tensors if not tensor.is_constant)
        if copies * activations > memory_bytes:
            raise BadPolicyFile(
                f"it needs {copies * activations} bytes for {copies} copies, and may take {memory_bytes}",
                reason="memory",
            )
        self._walk(graph)

    def _operator_code(self, table: int) -> int:
        self._require_fields("operator code", table)
        code = self._tables.number(table, 3, "int32")
        version = self._tables.number(table, 2, "int32", default=1)
        if code not in OPERATORS or version not in OPERATORS[code].versions:
            raise BadPolicyFile(f"operator {code} in version {version} is none that policies need", reason="operator")
        if self._tables.number(table, 0, "int8") != min(code, 127):
            raise BadPolicyFile(f"operator {code} has another number for older runtimes", reason="operator")
        return code

    def _tensor(self, table: int) -> _Tensor:
        tables = self._tables
        self._require_fields("tensor", table)
        name = bytes(tables.content(table, 3)).decode(errors="replace")[:80]
        kind = TENSOR_TYPES.get(tables.number(table, 1, "int8"))
        if kind is None:
            raise BadPolicyFile(f"tensor {name!r} is of a type that policies do not need", reason="tensor")
        shape = tuple(self._numbers(table, 0, "<i4").tolist())
        if len(shape) > _MOST_DIMENSIONS or not all(0 < side <= _LARGEST_SIDE for side in shape):
            raise BadPolicyFile(f"tensor {name!r} has the shape {shape}", reason="tensor")
        self._require_signature(name, shape, self._numbers(table, 7, "<i4").tolist())
        buffer = tables.number(table, 2, "uint32")
        if buffer >= len(self._buffers):
            raise BadPolicyFile(f"tensor {name!r} lies in buffer {buffer} of {len(self._buffers)}", reason="tensor")
        tensor = _Tensor(name, kind.name, shape, buffer)
        size = len(self._buffers[buffer])
        if tensor.is_constant and size != -(-tensor.elements * kind.item_bits // 8):
            raise BadPolicyFile(f"tensor {name!r}, {kind.name} {shape}, has {size} bytes of numbers", reason="tensor")
        self._require_scales(tensor, tables.table(table, 4))
        return tensor

    def _require_signature(self, name: str, shape: tuple[int, ...], signature: list[int]) -> None:
        """Only the first side may be open, and be 1 in the file: it is the batch."""
        if signature and (len(signature) != len(shape) or (signature[0], shape[0]) != (-1, 1)):
            raise BadPolicyFile(f"tensor {name!r} has the shape {shape}, open as {signature}", reason="tensor")
        if signature and tuple(signature[1:]) != shape[1:]:
            raise BadPolicyFile(f"tensor {name!r} has the shape {shape}, open as {signature}", reason="tensor")

    def _require_scales(self, tensor: _Tensor, quantization: int | None) -> None:
        if quantization is not None:
            self._require_fields("quantization", quantization)
        scales = self._numbers(quantization, 2, "<f4") if quantization is not None else np.empty(0, np.float32)
        is_real = tensor.kind in ("float32", "float16")
        if (is_real and scales.size) or (tensor.kind in ("int8", "uint8", "int4") and not scales.size):
            raise BadPolicyFile(f"{tensor.kind} tensor {tensor.name!r} has {scales.size} scales", reason="scale")
        if quantization is None:
            return
        smallest = 0.0 if tensor.kind == "int32" else _SMALLEST_SCALE  # products of two small scales are smaller
        if not ((scales > 0) & (scales >= smallest) & (scales <= _LARGEST_SCALE)).all():
            raise BadPolicyFile(
                f"tensor {tensor.name!r} has a scale of {scales.min():g} to {scales.max():g}", reason="scale"
            )
        if scales.size not in (1, *tensor.shape[:1]) or self._tables.number(quantization, 6, "int32"):
            raise BadPolicyFile(f"tensor {tensor.name!r}, {tensor.shape}, has {scales.size} scales", reason="scale")
        zeros = self._numbers(quantization, 3, "<i8")
        low, high = _ZERO_POINTS[tensor.kind]
        if zeros.size != scales.size or ((zeros < low) | (zeros > high)).any():
            raise BadPolicyFile(f"tensor {tensor.name!r} has zero points beyond {tensor.kind}", reason="scale")

    def _walk(self, graph: int) -> None:
        """Follow the operators in their order: each reads what is there by then, and writes what nobody wrote."""
        known = {index for index, tensor in enumerate(self._tensors) if tensor.is_constant}
        inputs = self._indices(graph, 1)
        self._inputs = {self._tensors[index].name: self._tensors[index].shape[1:] for index in inputs}
        known |= inputs
        for operator in self._list(graph, 3):
            known |= self._results(operator, known)
        if not self._indices(graph, 2) <= known:
            raise BadPolicyFile("an output is computed by nothing", reason="operator")

    def _results(self, operator: int, known: set[int]) -> set[int]:
        self._require_fields("operator", operator)
        place = self._tables.number(operator, 0, "uint32")
        if place >= len(self._codes):
            raise BadPolicyFile(f"operator code {place} of {len(self._codes)}", reason="operator")
        code = self._codes[place]
        name, expected = OPERATORS[code].name, OPERATORS[code].inputs
        inputs: list[int] = self._numbers(operator, 1, "<i4").tolist()
        outputs = self._indices(operator, 2)
        if not inputs or len(inputs) != (expected or len(inputs)) or not set(inputs) <= known:
            raise BadPolicyFile(f"{name} reads the tensors {inputs}, which are not all there", reason="operator")
        if not outputs or outputs & known:
            raise BadPolicyFile(f"{name} writes the tensors {sorted(outputs)}", reason="operator")
        self._require_options(code, operator)
        if has_indices(name):
            self._require_indices(name, *(self._tensors[index] for index in inputs))
        if code in WEIGHTED and self._tensors[inputs[1]].is_constant:
            self._weights.append(self._tensors[inputs[1]])
        return outputs

    def _require_indices(self, name: str, read: _Tensor, *indices: _Tensor) -> None:
        if any(each.kind != "int32" or not each.is_constant for each in indices):
            raise BadPolicyFile(f"{name} reads where something computed tells it to", reason="operator")
        numbers = [np.frombuffer(self._buffers[each.buffer], "<i4") for each in indices]
        if not are_indices_sound(name, read.shape, numbers):
            told = [each.tolist() for each in numbers]
            raise BadPolicyFile(f"{name} of a tensor {read.shape} is told {told}", reason="operator")

    def _require_options(self, code: int, operator: int) -> None:
        tables, expected = self._tables, OPERATORS[code]
        options = tables.table(operator, 4)
        if tables.number(operator, 3, "uint8") != expected.options or (options is None) != (expected.options == 0):
            raise BadPolicyFile(f"{expected.name} has the options of another operator", reason="operator")
        if options is None:
            return
        self._require_fields("options", options)
        if expected.name == "STRIDED_SLICE" and tables.slots(options) - _MASKS:
            raise BadPolicyFile("STRIDED_SLICE adds or takes axes away", reason="operator")
        if code in WINDOWED:
            slots = (1, 2) if OPERATORS[code].name == "CONV_2D" else (1, 2, 3, 4)
            sizes = [tables.number(options, slot, "int32") for slot in slots]
            if expected.name == "CONV_2D":
                sizes += [tables.number(options, slot, "int32", default=1) for slot in _DILATIONS]
            if not all(0 < size <= _LARGEST_WINDOW for size in sizes):
                raise BadPolicyFile(f"{expected.name} has strides, sizes and dilations of {sizes}", reason="operator")

    def _indices(self, table: int, slot: int) -> set[int]:
        indices: set[int] = set(self._numbers(table, slot, "<i4").tolist())
        if any(not 0 <= index < len(self._tensors) for index in indices):
            raise BadPolicyFile(f"tensors {sorted(indices)} of {len(self._tensors)}", reason="tensor")
        return indices

    def _numbers(self, table: int, slot: int, dtype: str) -> NDArray[Any]:
        kind = np.dtype(dtype)
        return np.frombuffer(self._tables.vector(table, slot, item_bytes=kind.itemsize), kind)

    def _list(self, table: int, slot: int) -> list[int]:
        return self._tables.tables(table, slot, at_most=_MOST_TABLES)

    def _checked(self, kind: str, table: int) -> int:
        self._require_fields(kind, table)
        return table

    def _require_fields(self, kind: str, table: int) -> None:
        unknown = self._tables.slots(table) - FIELDS[kind]
        if unknown:
            raise BadPolicyFile(f"a {kind} has fields that policies do not need: {sorted(unknown)}", reason="operator")
