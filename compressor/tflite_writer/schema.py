"""The numbers of the `.tflite` schema that this writer uses, and no others.

A table's field is a slot in its vtable and the type that is stored there. Slots, codes and types are
fixed by TensorFlow Lite's `schema.fbs`; they may be added to, never changed.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from flatbuffers import Builder

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3

# `force_align: 16` in the schema: the runtime maps weights in place and reads them with vector loads.
BUFFER_ALIGNMENT = 16

# Readers older than `OperatorCode.builtin_code` look at an int8 field, whose last value means "look there".
LAST_DEPRECATED_CODE = 127


class TensorType(IntEnum):
    """Element types of a tensor."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT32 = 2
    UINT8 = 3
    INT8 = 9
    INT4 = 17


class BuiltinOperator(IntEnum):
    """Codes of operators."""

    ADD = 0
    CONCATENATION = 2
    CONV_2D = 3
    DEQUANTIZE = 6
    FULLY_CONNECTED = 9
    LOGISTIC = 14
    MAX_POOL_2D = 17
    MUL = 18
    RELU = 19
    RESHAPE = 22
    TANH = 28
    PAD = 34
    TRANSPOSE = 39
    MEAN = 40
    SUB = 41
    STRIDED_SLICE = 45
    EXP = 47
    SPLIT = 49
    MAXIMUM = 55
    MINIMUM = 57
    RSQRT = 76
    SQUARED_DIFFERENCE = 99
    QUANTIZE = 114
    GELU = 150


class BuiltinOptions(IntEnum):
    """Which table an operator's options are."""

    NONE = 0
    CONV_2D = 1
    POOL_2D = 5
    FULLY_CONNECTED = 8
    CONCATENATION = 10
    ADD = 11
    MUL = 21
    REDUCER = 27
    SUB = 28
    STRIDED_SLICE = 32
    SPLIT = 35
    GELU = 116


class FusedActivation(IntEnum):
    """What an operator applies to its own output."""

    NONE = 0
    RELU = 1
    RELU_N1_TO_1 = 2
    RELU6 = 3


class PaddingKind(IntEnum):
    """What stands around an image."""

    SAME = 0
    VALID = 1


class Field(NamedTuple):
    """One field of a table.

    Attributes:
        slot: its place in the vtable.
        put: the method of `flatbuffers.Builder` that stores its type.
    """

    slot: int
    put: Callable[[Builder, int, int, int], None]


_OFFSET = Builder.PrependUOffsetTRelativeSlot
_BOOL = Builder.PrependBoolSlot
_INT8 = Builder.PrependInt8Slot
_UINT8 = Builder.PrependUint8Slot
_INT32 = Builder.PrependInt32Slot
_UINT32 = Builder.PrependUint32Slot

MODEL_VERSION = Field(0, _UINT32)
MODEL_OPERATOR_CODES = Field(1, _OFFSET)
MODEL_SUBGRAPHS = Field(2, _OFFSET)
MODEL_DESCRIPTION = Field(3, _OFFSET)
MODEL_BUFFERS = Field(4, _OFFSET)
MODEL_METADATA = Field(6, _OFFSET)
MODEL_SIGNATURE_DEFS = Field(7, _OFFSET)

OPERATOR_CODE_DEPRECATED_CODE = Field(0, _INT8)
OPERATOR_CODE_VERSION = Field(2, _INT32)
OPERATOR_CODE_CODE = Field(3, _INT32)

SUBGRAPH_TENSORS = Field(0, _OFFSET)
SUBGRAPH_INPUTS = Field(1, _OFFSET)
SUBGRAPH_OUTPUTS = Field(2, _OFFSET)
SUBGRAPH_OPERATORS = Field(3, _OFFSET)
SUBGRAPH_NAME = Field(4, _OFFSET)

TENSOR_SHAPE = Field(0, _OFFSET)
TENSOR_TYPE = Field(1, _INT8)
TENSOR_BUFFER = Field(2, _UINT32)
TENSOR_NAME = Field(3, _OFFSET)
TENSOR_QUANTIZATION = Field(4, _OFFSET)
TENSOR_SHAPE_SIGNATURE = Field(7, _OFFSET)

QUANTIZATION_SCALE = Field(2, _OFFSET)
QUANTIZATION_ZERO_POINT = Field(3, _OFFSET)
QUANTIZATION_DIMENSION = Field(6, _INT32)

OPERATOR_OPCODE_INDEX = Field(0, _UINT32)
OPERATOR_INPUTS = Field(1, _OFFSET)
OPERATOR_OUTPUTS = Field(2, _OFFSET)
OPERATOR_OPTIONS_TYPE = Field(3, _UINT8)
OPERATOR_OPTIONS = Field(4, _OFFSET)

# The same slot in the options of FULLY_CONNECTED, MUL, SUB and ADD.
OPTIONS_FUSED_ACTIVATION = Field(0, _INT8)

# The same slots in the options of CONV_2D and MAX_POOL_2D.
WINDOW_PADDING = Field(0, _INT8)
WINDOW_STRIDE_WIDTH = Field(1, _INT32)
WINDOW_STRIDE_HEIGHT = Field(2, _INT32)

CONV_2D_FUSED_ACTIVATION = Field(3, _INT8)
CONV_2D_DILATION_WIDTH = Field(4, _INT32)
CONV_2D_DILATION_HEIGHT = Field(5, _INT32)

POOL_2D_FILTER_WIDTH = Field(3, _INT32)
POOL_2D_FILTER_HEIGHT = Field(4, _INT32)
POOL_2D_FUSED_ACTIVATION = Field(5, _INT8)

CONCATENATION_AXIS = Field(0, _INT32)

SPLIT_COUNT = Field(0, _INT32)

# One bit an axis: it is taken from its beginning, or to its end, whatever the constants say.
STRIDED_SLICE_BEGIN_MASK = Field(0, _INT32)
STRIDED_SLICE_END_MASK = Field(1, _INT32)

REDUCER_KEEP_DIMS = Field(0, _BOOL)

GELU_APPROXIMATE = Field(0, _BOOL)

BUFFER_DATA = Field(0, _OFFSET)

METADATA_NAME = Field(0, _OFFSET)
METADATA_BUFFER = Field(1, _UINT32)

SIGNATURE_INPUTS = Field(0, _OFFSET)
SIGNATURE_OUTPUTS = Field(1, _OFFSET)
SIGNATURE_KEY = Field(2, _OFFSET)
SIGNATURE_SUBGRAPH_INDEX = Field(4, _UINT32)

TENSOR_MAP_NAME = Field(0, _OFFSET)
TENSOR_MAP_TENSOR_INDEX = Field(1, _UINT32)
