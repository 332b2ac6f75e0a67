"""Numbers with fewer bits: pure functions from float32 to int8 and float16.

An integer q stands for the real number r = s * (q - z) (Jacob et al. 2018, https://arxiv.org/abs/1712.05877). Weights
are symmetric, z = 0, so that an integer product needs no correction for offsets. Activations are asymmetric, because
most are one-sided. Both have 0.0 exactly: "same" padding and a ReLU's zeros cost nothing.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compressor.layer import Float32Array, InvalidPolicyError

# -128 is left out: the grid is symmetric, and runtimes may then add two products in 16 bits.
LARGEST_INT8 = 127
LARGEST_INT4 = 7

# Activations use it.
SMALLEST_INT8 = -128
_INT8_STEPS = 255

LARGEST_FLOAT16 = 65504.0

# A row of zeros has no natural scale; runtimes refuse 0 and subnormal numbers, and any other will do.
SMALLEST_SCALE = np.finfo(np.float32).tiny


# Room below the largest int32 (2^31) for the products that a bias is added to.
LARGEST_BIAS = 2.0**30


class Quantization(NamedTuple):
    """What an activation's integers mean: `real = scale * (integer - zero_point)`."""

    scale: np.float32
    zero_point: int


class QuantizedWeight(NamedTuple):
    """An int8 or int4 weight: `weight ~= scales * values`, a scale for each entry of the first axis or one for all.

    Attributes:
        values: int8 `[out, ...]`, from -127 to 127, or from -7 to 7.
        scales: float32 `[out]`, or `[1]` for the whole matrix; never zero.
    """

    values: npt.NDArray[np.int8]
    scales: Float32Array


def quantize_per_channel(weight: Float32Array) -> QuantizedWeight:
    """Quantise with a scale per output: s[c] = max |W[c]| / 127, q = round(W / s).

    Args:
        weight: float32 `[out, ...]`, finite.

    Returns:
        Values and scales `[out]`; each weight is off by half its output's scale at most.
    """
    return _quantize(weight, _largest_of_rows(weight) / np.float32(LARGEST_INT8))


def quantize_to_int4(weight: Float32Array) -> QuantizedWeight:
    """Quantise with a scale per output: s[c] = max |W[c]| / 7, q = round(W / s).

    Args:
        weight: float32 `[out, ...]`, finite.

    Returns:
        Values and scales `[out]`; each weight is off by half its output's scale at most.
    """
    return _quantize(weight, _largest_of_rows(weight) / np.float32(LARGEST_INT4))


def pack_int4(values: npt.NDArray[np.int8]) -> bytes:
    """Put two numbers from -8 to 7 into each byte, the first into the low half; the last half may be empty."""
    halves = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8)).view(np.uint8) & 0x0F
    return (halves[::2] | halves[1::2] << 4).tobytes()


def quantize_per_tensor(weight: Float32Array) -> QuantizedWeight:
    """Quantise with one scale: s = max |W| / 127, q = round(W / s).

    Args:
        weight: float32 `[out, ...]`, finite.

    Returns:
        Values and one scale `[1]`; each weight is off by half the scale at most.
    """
    return _quantize(weight, _largest_of_rows(weight).max(keepdims=True) / np.float32(LARGEST_INT8))


def to_float16(values: Float32Array, *, name: str) -> npt.NDArray[np.float16]:
    """Round to float16: a relative error of 2^-11 at most, or 2^-25 in all below 2^-14.

    Args:
        values: float32 of any shape, finite.
        name: what an error calls them.

    Returns:
        float16 of the same shape.

    Raises:
        InvalidPolicyError: a value is beyond float16's largest, 65504.
    """
    largest = float(np.abs(values).max())
    if largest > LARGEST_FLOAT16:
        raise InvalidPolicyError(
            f"{name} reaches {largest:.3g}, but float16 ends at {LARGEST_FLOAT16:.0f}: use float32"
        )
    return values.astype(np.float16)


def quantize_affine(
    weight: Float32Array, bias: Float32Array, *, input_scale: np.float32
) -> tuple[QuantizedWeight, npt.NDArray[np.int32]]:
    """Quantise weight and bias for int8 inputs: `sum (q_x - z_x) q_w + q_b` has the scale s_x s_w[c].

    An output's weights get a coarser scale where its bias would not fit into int32 otherwise; that is an output
    whose weights hardly matter beside its bias.

    Args:
        weight: float32 `[out, ...]`, finite.
        bias: float32 `[out]`, finite.
        input_scale: s_x.

    Returns:
        The weight with a scale per output, and the bias as int32 `[out]`.
    """
    smallest = np.abs(bias) / (np.float64(input_scale) * LARGEST_BIAS)
    scales = np.maximum(_largest_of_rows(weight) / np.float32(LARGEST_INT8), smallest.astype(np.float32))
    # An output without weights and bias may have any scale: one that no runtime has to round to zero.
    quantized = _quantize(weight, np.where(scales > 0, scales, scales.max(initial=0.0) or np.float32(1)))
    return quantized, np.rint(bias / (np.float64(input_scale) * quantized.scales)).astype(np.int32)


def quantize_activation(low: float, high: float) -> Quantization:
    """Return the grid of an activation: s = (high - low) / 255, z = round(-128 - low / s), with 0.0 on it.

    Args:
        low: the least value seen, finite; 0 stands in for what is above it.
        high: the largest value seen, finite; 0 stands in for what is below it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / _INT8_STEPS
    # What never was anything but zero may have any scale.
    scale = np.float32(step if step > SMALLEST_SCALE else 1 / _INT8_STEPS)
    zero_point = round(SMALLEST_INT8 - low / float(scale))
    return Quantization(scale, min(LARGEST_INT8, max(SMALLEST_INT8, zero_point)))


def _largest_of_rows(weight: Float32Array) -> Float32Array:
    rows = weight.reshape(len(weight), -1)
    return np.maximum(rows.max(axis=1), -rows.min(axis=1))


def _quantize(weight: Float32Array, scales: Float32Array) -> QuantizedWeight:
    scales = np.maximum(scales, SMALLEST_SCALE)
    quotients = weight / scales.reshape(-1, *[1] * (weight.ndim - 1))
    return QuantizedWeight(np.rint(quotients, out=quotients).astype(np.int8), scales)
