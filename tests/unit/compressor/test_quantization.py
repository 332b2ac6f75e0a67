"""Quantised weights stay within half a step of the real ones, whatever the real ones are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compressor import InvalidPolicyError
from compressor.quantization import quantize_per_channel, quantize_per_tensor, to_float16

weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)

# A busy machine is no reason to fail.
patient = settings(deadline=None)

# Dividing and multiplying by the scale are rounded too, to 24 bits.
HALF_STEP = 0.5 * (1 + 2**-15)


@patient
@given(weights)
def test_per_channel_is_off_by_half_a_step_of_the_row_at_most(weight):
    values, scales = quantize_per_channel(weight)
    for row, integers, scale in zip(weight, values, scales, strict=True):
        for real, integer in zip(row, integers, strict=True):
            assert abs(float(real) - float(scale) * int(integer)) <= HALF_STEP * float(scale)


@patient
@given(weights)
def test_per_tensor_is_off_by_half_a_step_at_most(weight):
    values, (scale,) = quantize_per_tensor(weight)
    for real, integer in zip(weight.flat, values.flat, strict=True):
        assert abs(float(real) - float(scale) * int(integer)) <= HALF_STEP * float(scale)


@patient
@given(weights)
@pytest.mark.parametrize("quantize", [quantize_per_channel, quantize_per_tensor])
def test_zero_is_exact_and_scales_are_normal_numbers(quantize, weight):
    weight[0, 0] = 0.0
    values, scales = quantize(weight)
    assert values[0, 0] == 0
    assert (scales >= np.finfo(np.float32).tiny).all()
    assert np.isfinite(scales).all()


@patient
@given(weights)
@pytest.mark.parametrize("quantize", [quantize_per_channel, quantize_per_tensor])
def test_the_grid_is_symmetric(quantize, weight):
    values, scales = quantize(weight)
    mirrored, same_scales = quantize(-weight)
    np.testing.assert_array_equal(-mirrored, values)
    np.testing.assert_array_equal(same_scales, scales)
    assert values.dtype == np.int8
    assert abs(values.astype(int)).max() <= 127


def test_the_largest_weight_of_each_row_takes_the_last_step():
    values, scales = quantize_per_channel(np.array([[127.0, -63.6], [0.5, -1.0]], np.float32))
    assert values.tolist() == [[127, -64], [64, -127]]
    np.testing.assert_allclose(scales, [1.0, 1 / 127], rtol=1e-6)


def test_one_scale_per_tensor_is_that_of_the_largest_weight():
    values, scales = quantize_per_tensor(np.array([[127.0, -63.6], [0.5, -1.0]], np.float32))
    assert values.tolist() == [[127, -64], [0, -1]]
    assert scales.tolist() == [1.0]


@patient
@given(st.floats(-65504, 65504, width=32))
def test_float16_keeps_eleven_bits(value):
    (half,) = to_float16(np.array([value], np.float32), name="weight")
    assert abs(float(half) - value) <= max(math.ldexp(abs(value), -11), 2.0**-25)


def test_a_weight_beyond_float16_is_refused_by_name():
    with pytest.raises(InvalidPolicyError, match=r"torso\[0\]\.weight reaches 7e\+04.*use float32"):
        to_float16(np.array([[1.0, -70000.0]], np.float32), name="torso[0].weight")
