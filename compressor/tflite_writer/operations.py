"""The operators that our files use, each in the version that tells a runtime what it must be able to do.

A runtime that does not know a version refuses the file. So a version is as low as a file needs, and high enough to
be refused by a runtime that would read it wrongly.
"""

from typing import NamedTuple

from compressor.tflite_writer import schema
from compressor.tflite_writer.schema import BuiltinOperator, BuiltinOptions, Field


class Operation(NamedTuple):
    """A kind of operator.

    Attributes:
        code: which operator.
        version: of its meaning, for float activations.
        options: which table its options are.
        activation: where that table holds the fused activation; None where nothing can be fused.
        int8_version: the version for int8 activations.
    """

    code: BuiltinOperator
    version: int = 1
    options: BuiltinOptions = BuiltinOptions.NONE
    activation: Field | None = None
    int8_version: int = 2


FULLY_CONNECTED = Operation(
    BuiltinOperator.FULLY_CONNECTED, 1, BuiltinOptions.FULLY_CONNECTED, schema.OPTIONS_FUSED_ACTIVATION, int8_version=4
)
# 3 is int8 weights under float inputs, 12 adds a scale per row. tflite-runtime 2.14 does not know 12 and refuses the
# file; under a lower number it would misread it.
FULLY_CONNECTED_PER_TENSOR = FULLY_CONNECTED._replace(version=3)
FULLY_CONNECTED_PER_CHANNEL = FULLY_CONNECTED._replace(version=12)

CONV_2D = Operation(BuiltinOperator.CONV_2D, 1, BuiltinOptions.CONV_2D, schema.CONV_2D_FUSED_ACTIVATION, int8_version=3)
# 5 is int8 weights with a scale per output under float inputs, which tflite-runtime 2.14 reads rightly too.
CONV_2D_PER_CHANNEL = CONV_2D._replace(version=5)

MAX_POOL_2D = Operation(BuiltinOperator.MAX_POOL_2D, 1, BuiltinOptions.POOL_2D, schema.POOL_2D_FUSED_ACTIVATION)
ADD = Operation(BuiltinOperator.ADD, 1, BuiltinOptions.ADD, schema.OPTIONS_FUSED_ACTIVATION)
SUBTRACT = Operation(BuiltinOperator.SUB, 1, BuiltinOptions.SUB, schema.OPTIONS_FUSED_ACTIVATION)
MULTIPLY = Operation(BuiltinOperator.MUL, 1, BuiltinOptions.MUL, schema.OPTIONS_FUSED_ACTIVATION)
RELU = Operation(BuiltinOperator.RELU)
TANH = Operation(BuiltinOperator.TANH)
LOGISTIC = Operation(BuiltinOperator.LOGISTIC)
RESHAPE = Operation(BuiltinOperator.RESHAPE, int8_version=1)
SPLIT = Operation(BuiltinOperator.SPLIT, 1, BuiltinOptions.SPLIT)
CONCATENATION = Operation(BuiltinOperator.CONCATENATION, 1, BuiltinOptions.CONCATENATION)

# Only converted modules (`compressor.conversion`) have these.
MAXIMUM = Operation(BuiltinOperator.MAXIMUM, int8_version=1)
MINIMUM = Operation(BuiltinOperator.MINIMUM, int8_version=1)
EXP = Operation(BuiltinOperator.EXP, int8_version=1)
RSQRT = Operation(BuiltinOperator.RSQRT, int8_version=1)
SQUARED_DIFFERENCE = Operation(BuiltinOperator.SQUARED_DIFFERENCE, int8_version=1)
GELU = Operation(BuiltinOperator.GELU, 1, BuiltinOptions.GELU, int8_version=1)
MEAN = Operation(BuiltinOperator.MEAN, 1, BuiltinOptions.REDUCER, int8_version=1)
TRANSPOSE = Operation(BuiltinOperator.TRANSPOSE, int8_version=1)
PAD = Operation(BuiltinOperator.PAD, int8_version=1)
# Not SLICE: where the batch is open, that gives a tensor whose memory moves from run to run.
STRIDED_SLICE = Operation(BuiltinOperator.STRIDED_SLICE, 1, BuiltinOptions.STRIDED_SLICE, int8_version=1)

QUANTIZE = Operation(BuiltinOperator.QUANTIZE, int8_version=1)
DEQUANTIZE_UINT8 = Operation(BuiltinOperator.DEQUANTIZE, 1)
DEQUANTIZE_INT8 = Operation(BuiltinOperator.DEQUANTIZE, 2)
DEQUANTIZE_FLOAT16 = Operation(BuiltinOperator.DEQUANTIZE, 3)
