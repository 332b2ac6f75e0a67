"""Numbers with fewer bits: pure functions from float32 weights to int8 and float16.

Symmetric quantisation stores a real number r as an integer q with r = s * q (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877, with zero point 0), so that 0.0 is exact and an integer product needs no
correction for offsets.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compressor.layer import Float32Array, InvalidPolicyError

# -128 is left out: the grid is symmetric, and runtimes may then add two products in 16 bits.
LARGEST_INT8 = 127
LARGEST_FLOAT16 = 65504.0

# A row of zeros has no natural scale; runtimes refuse 0 and subnormal numbers, and any other will do.
SMALLEST_SCALE = np.finfo(np.float32).tiny


class QuantizedWeight(NamedTuple):
    """An int8 weight matrix: `weight ~= scales[:, None] * values`.

    Attributes:
        values: int8 `[out, in]`, from -127 to 127.
        scales: float32 `[out]`, or `[1]` for the whole matrix; never zero.
    """

    values: npt.NDArray[np.int8]
    scales: Float32Array


def quantize_per_channel(weight: Float32Array) -> QuantizedWeight:
    """Quantise with a scale per output row: s[c] = max |W[c, :]| / 127, q = round(W / s).

    Args:
        weight: float32 `[out, in]`, finite.

    Returns:
        Values and scales `[out]`; each weight is off by half its row's scale at most.
    """
    return _quantize(weight, np.abs(weight).max(axis=1))


def quantize_per_tensor(weight: Float32Array) -> QuantizedWeight:
    """Quantise with one scale: s = max |W| / 127, q = round(W / s).

    Args:
        weight: float32 `[out, in]`, finite.

    Returns:
        Values and one scale `[1]`; each weight is off by half the scale at most.
    """
    return _quantize(weight, np.abs(weight).max(keepdims=True)[0])


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


def _quantize(weight: Float32Array, largest: Float32Array) -> QuantizedWeight:
    scales = np.maximum(largest / np.float32(LARGEST_INT8), SMALLEST_SCALE)
    values = np.rint(weight / scales[:, np.newaxis]).astype(np.int8)
    return QuantizedWeight(values, scales)
