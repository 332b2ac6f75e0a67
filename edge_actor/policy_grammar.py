"""What a policy file may hold: the operators, types and fields that our compressor writes, and nothing else.

A runtime knows some 200 operators, control flow and code of other people among them, and reads dozens of fields. What
is not needed to act is refused unread; a test holds this list against the compressor's own.

Converted modules (`edgerl convert`) bring ten operators that our own networks do without. Six (EXP, GELU, MAXIMUM,
MINIMUM, RSQRT, SQUARED_DIFFERENCE) are arithmetic on every number, as TANH and SUB are: no index, and no memory beyond
that of their result. Four (MEAN, PAD, STRIDED_SLICE, TRANSPOSE) follow indices, which must be constants, and which
`policy_indices.py` holds within the tensor that is read. What compares and selects, gathers, multiplies two computed
matrices or loops is left out: the converter makes do without it, or says which layer needs it.
"""

from typing import Final, NamedTuple


class Operator(NamedTuple):
    """One operator of the allow-list.

    Attributes:
        name: As TFLite calls it.
        versions: Which meanings of it our files use.
        options: Which table its options are, 0 for none.
        inputs: How many tensors it reads; None for any number from one on.
    """

    name: str
    versions: frozenset[int]
    options: int
    inputs: int | None


class TensorType(NamedTuple):
    """An element type: its name, and its size."""

    name: str
    item_bits: int


OPERATORS: Final[dict[int, Operator]] = {
    0: Operator("ADD", frozenset({1, 2}), 11, 2),
    2: Operator("CONCATENATION", frozenset({1, 2}), 10, None),
    3: Operator("CONV_2D", frozenset({1, 3, 5}), 1, 3),
    6: Operator("DEQUANTIZE", frozenset({1, 2, 3}), 0, 1),
    9: Operator("FULLY_CONNECTED", frozenset({1, 3, 4, 12}), 8, 3),
    14: Operator("LOGISTIC", frozenset({1, 2}), 0, 1),
    17: Operator("MAX_POOL_2D", frozenset({1, 2}), 5, 1),
    18: Operator("MUL", frozenset({1, 2}), 21, 2),
    19: Operator("RELU", frozenset({1, 2}), 0, 1),
    22: Operator("RESHAPE", frozenset({1}), 0, 2),
    28: Operator("TANH", frozenset({1, 2}), 0, 1),
    34: Operator("PAD", frozenset({1}), 0, 2),
    39: Operator("TRANSPOSE", frozenset({1}), 0, 2),
    40: Operator("MEAN", frozenset({1}), 27, 2),
    41: Operator("SUB", frozenset({1, 2}), 28, 2),
    45: Operator("STRIDED_SLICE", frozenset({1}), 32, 4),
    47: Operator("EXP", frozenset({1}), 0, 1),
    49: Operator("SPLIT", frozenset({1, 2}), 35, 2),
    55: Operator("MAXIMUM", frozenset({1}), 0, 2),
    57: Operator("MINIMUM", frozenset({1}), 0, 2),
    76: Operator("RSQRT", frozenset({1}), 0, 1),
    99: Operator("SQUARED_DIFFERENCE", frozenset({1}), 0, 2),
    114: Operator("QUANTIZE", frozenset({1}), 0, 1),
    150: Operator("GELU", frozenset({1}), 116, 1),
}
WEIGHTED: Final = frozenset({3, 9})
"""Operators whose second input is a matrix or kernels."""
WINDOWED: Final = frozenset({3, 17})
"""Operators that slide over an image; a stride of 0 would divide by it."""

TENSOR_TYPES: Final[dict[int, TensorType]] = {
    0: TensorType("float32", 32),
    1: TensorType("float16", 16),
    2: TensorType("int32", 32),
    3: TensorType("uint8", 8),
    9: TensorType("int8", 8),
    17: TensorType("int4", 4),
}

FIELDS: Final[dict[str, frozenset[int]]] = {
    "model": frozenset({0, 1, 2, 3, 4, 6, 7}),
    "operator code": frozenset({0, 2, 3}),
    "subgraph": frozenset({0, 1, 2, 3, 4}),
    "tensor": frozenset({0, 1, 2, 3, 4, 7}),
    "quantization": frozenset({2, 3, 6}),
    "operator": frozenset({0, 1, 2, 3, 4}),
    "options": frozenset(range(6)),
    "buffer": frozenset({0}),
    "metadata": frozenset({0, 1}),
    "signature": frozenset({0, 1, 2, 4}),
}
"""Which slots of each table may be there. Custom operators, sparsity, variables, control flow, external buffers and
whatever the format will learn next have others."""
