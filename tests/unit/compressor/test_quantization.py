"""Quantised weights stay within half a step of the real ones, whatever the real ones are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compressor import InvalidPolicyError
from compressor.quantization import (
    quantize_activation,
    quantize_affine,
    quantize_per_channel,
    quantize_per_tensor,
    to_float16,
)

bounds = st.floats(-(2.0**60), 2.0**60, width=32)

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


@patient
@given(bounds, bounds)
def test_an_activations_grid_holds_zero_and_both_ends(one, other):
    low, high = sorted((one, other))
    scale, zero_point = quantize_activation(low, high)
    assert -128 <= zero_point <= 127
    assert np.float32(scale) == scale > 0
    # Zero takes the nearest integer, so each end may stand half a step outside.
    assert (-128 - zero_point) * float(scale) <= min(low, 0.0) + 0.51 * float(scale)
    assert (127 - zero_point) * float(scale) >= max(high, 0.0) - 0.51 * float(scale)
    assert 255 * float(scale) <= (max(high, 0.0) - min(low, 0.0)) * 1.001 or scale == np.float32(1 / 255)


@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(0, 6, -128), (-3, 0, 127), (2, 5, -128), (-128, 127, 0), (0, 0, -128)]
)
def test_one_sided_activations_use_the_whole_grid(low, high, zero_point):
    assert quantize_activation(low, high).zero_point == zero_point


@patient
@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e3, 1e3, width=32)),
    hnp.arrays(np.float32, 3, elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(2.0**-20, 2.0**10, width=32),
)
def test_a_bias_is_off_by_half_a_product_at_most(weight, bias, input_scale):
    (values, scales), integers = quantize_affine(weight, bias, input_scale=np.float32(input_scale))
    assert integers.dtype == np.int32
    for real, integer, scale in zip(bias, integers, scales, strict=True):
        product = float(input_scale) * float(scale)
        assert abs(int(integer) * product - float(real)) <= 0.5 * product * (1 + 2**-15) + abs(float(real)) * 2**-29
    for row, steps, scale in zip(weight, values, scales, strict=True):
        assert abs(row - steps * np.float64(scale)).max() <= HALF_STEP * float(scale)


def test_kernels_are_quantised_like_the_rows_of_a_matrix():
    kernels = np.random.default_rng(0).standard_normal((4, 3, 2, 5)).astype(np.float32)
    values, scales = quantize_per_channel(kernels)
    matrix_values, matrix_scales = quantize_per_channel(kernels.reshape(4, -1))
    np.testing.assert_array_equal(values.reshape(4, -1), matrix_values)
    np.testing.assert_array_equal(scales, matrix_scales)
