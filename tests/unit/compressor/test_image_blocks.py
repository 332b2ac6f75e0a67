"""Convolutions, pools and residuals are their definitions, pixel by pixel, and refuse what does not fit."""

import math

import numpy as np
import pytest
import torch
from policy_factories import make_convolution, make_layer, make_nature, make_residual, make_resnet

from compressor import (
    Convolution,
    Flatten,
    InvalidPolicyError,
    MaxPool,
    PolicyGraph,
    Relu,
    Residual,
    UnsupportedPolicyError,
)


def make_floats(height=7, width=6, channels=3, count=2):
    return np.random.default_rng(0).standard_normal((count, height, width, channels))


def before(size, window, stride):
    """Return how many pixels SAME adds before an axis, as TensorFlow's documentation has it."""
    total = max(window - stride, 0) if size % stride == 0 else max(window - size % stride, 0)
    return total // 2


def slow_windows(image, window, stride, padding):
    """Yield each position with the pixels there, as (row in window, column in window, values)."""
    height, width, _ = image.shape
    is_same = padding == "same"
    rows, columns = (
        math.ceil((size if is_same else size - side + 1) / stride)
        for size, side in zip((height, width), window, strict=True)
    )
    top, left = (
        before(size, side, stride) if is_same else 0 for size, side in zip((height, width), window, strict=True)
    )
    for row in range(rows):
        for column in range(columns):
            places = [
                (i, j, row * stride - top + i, column * stride - left + j)
                for i in range(window[0])
                for j in range(window[1])
            ]
            yield (row, column), [(i, j, image[y, x]) for i, j, y, x in places if 0 <= y < height and 0 <= x < width]


def slow_convolution(block, image):
    result = {}
    for position, pixels in slow_windows(image, block.weight.shape[1:3], block.stride, block.padding):
        sums = block.bias.astype(float)
        for i, j, values in pixels:
            sums = sums + block.weight[:, i, j, :].astype(float) @ values
        result[position] = {"tanh": np.tanh(sums), "relu": np.maximum(sums, 0), None: sums}[block.activation]
    rows, columns = (1 + max(axis) for axis in zip(*result, strict=True))
    return np.array([[result[row, column] for column in range(columns)] for row in range(rows)])


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_a_convolution_equals_loops_over_the_definition(padding, stride, size, activation):
    block = make_convolution(4, 3, size, stride=stride, padding=padding, activation=activation)
    images = make_floats()
    actual = block.forward(images)
    assert actual.dtype == np.float64
    assert actual.shape[1:] == block.output_shape("block", images.shape[1:])
    for image, result in zip(images, actual, strict=True):
        np.testing.assert_allclose(result, slow_convolution(block, image), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_torchs(stride):
    block = make_convolution(4, 3, 3, stride=stride)
    images = make_floats()
    weight, inputs = (
        torch.tensor(block.weight.transpose(0, 3, 1, 2)).double(),
        torch.tensor(images.transpose(0, 3, 1, 2)),
    )
    expected = torch.nn.functional.conv2d(inputs, weight, torch.tensor(block.bias).double(), stride)
    np.testing.assert_allclose(block.forward(images), expected.numpy().transpose(0, 2, 3, 1), atol=1e-12)


def test_blocks_compute_in_the_precision_of_their_inputs():
    for block in (make_convolution(3, 3, 3, activation="tanh"), make_residual(3), MaxPool(3, 2), Relu(), Flatten()):
        assert block.forward(make_floats().astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (3, 1), (2, 3), (1, 1)])
def test_a_pool_is_the_largest_pixel_and_padding_never_wins(size, stride):
    images = make_floats() - 10.0
    actual = MaxPool(size, stride).forward(images)
    assert actual.shape[1:] == MaxPool(size, stride).output_shape("pool", images.shape[1:])
    for image, result in zip(images, actual, strict=True):
        for (row, column), pixels in slow_windows(image, (size, size), stride, "same"):
            assert np.array([values for _, _, values in pixels]).max(axis=0).tolist() == result[row, column].tolist()


def test_a_residual_adds_two_convolutions_of_the_rectified_image():
    block, images = make_residual(3), make_floats()
    for image, result in zip(images, block.forward(images), strict=True):
        inside = np.maximum(slow_convolution(block.first, np.maximum(image, 0)), 0)
        np.testing.assert_allclose(result, image + slow_convolution(block.second, inside), atol=1e-12)


def test_flatten_puts_channels_last():
    image = np.arange(12.0).reshape(1, 2, 2, 3)
    assert Flatten().forward(image).tolist() == [list(range(12))]


def test_a_policy_sees_images_divided_by_255():
    graph = make_resnet()
    assert graph.normalise(np.full((1, 15, 18, 3), 51, np.uint8)).ravel().tolist() == [0.2] * graph.observation_size
    assert graph.observation_shape == (15, 18, 3)
    assert graph.state_size == 0


def refuse(error, sentence, *torso, image_shape=(8, 8, 3)):
    with pytest.raises(error, match=sentence):
        PolicyGraph(torso=torso, heads={"logits": make_layer(2, 4)}, image_shape=image_shape)


def test_channels_that_do_not_chain_are_refused():
    refuse(
        InvalidPolicyError,
        r"torso\[1\]\.weight is \[4, 3, 3, 5\], but 4 channels reach it",
        make_convolution(4, 3, 3),
        make_convolution(4, 5, 3),
    )


def test_a_window_beyond_the_image_is_refused():
    refuse(
        InvalidPolicyError, r"torso\[0\] has a window of \[9, 9\], but an image of \[8, 8\]", make_convolution(4, 3, 9)
    )


def test_a_dense_layer_on_an_image_is_refused_with_what_is_missing():
    refuse(
        InvalidPolicyError,
        r"torso\[1\] needs a vector, but \[6, 6, 4\] reaches it: put Flatten",
        make_convolution(4, 3, 3),
        make_layer(4, 144),
    )


@pytest.mark.parametrize("block", [make_convolution(4, 3, 3), MaxPool(2, 2), make_residual(3)])
def test_an_image_block_on_a_vector_is_refused(block):
    refuse(InvalidPolicyError, r"torso\[1\](\.first)? needs an image, but \[192\] reaches it", Flatten(), block)


def test_a_torso_that_ends_with_an_image_is_refused():
    refuse(UnsupportedPolicyError, r"torso ends with an image \[6, 6, 4\]: put Flatten", make_convolution(4, 3, 3))


def test_a_convolution_without_an_image_shape_is_refused():
    refuse(
        UnsupportedPolicyError,
        "torso begins with Convolution.*give image_shape",
        make_convolution(4, 3, 3),
        image_shape=None,
    )


@pytest.mark.parametrize("image_shape", [(None, 8, 3), (8, 8), (0, 8, 3), (8.0, 8, 3)])
def test_an_image_of_unknown_size_is_refused(image_shape):
    refuse(
        InvalidPolicyError, "it must be three positive numbers", Flatten(), make_layer(4, 192), image_shape=image_shape
    )


def test_a_block_of_somebody_elses_is_refused_by_its_type():
    refuse(
        UnsupportedPolicyError,
        r"torso\[0\] is a GELU, and no file can hold one: use Layer, Convolution",
        torch.nn.GELU(),
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_kernel_that_is_not_finite_is_refused_by_name(bad):
    block = make_convolution(3, 3, 3, padding="same")
    block.weight[0, 1, 2, 0] = bad
    refuse(InvalidPolicyError, r"torso\[0\]\.weight holds NaN or infinity", block)
    refuse(InvalidPolicyError, r"torso\[0\]\.second\.weight holds NaN", Residual(make_residual(3).first, block))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"padding": "full"}, "has padding 'full'"), ({"activation": "elu"}, "has activation 'elu'")],
)
def test_an_unknown_padding_or_activation_is_refused(change, sentence):
    good = make_convolution(4, 3, 3)
    refuse(UnsupportedPolicyError, sentence, Convolution(good.weight, good.bias, **change))


@pytest.mark.parametrize("block", [make_convolution(4, 3, 3, stride=0), MaxPool(0, 1), MaxPool(2, -1)])
def test_sizes_and_strides_below_one_are_refused(block):
    refuse(InvalidPolicyError, "it must be at least 1", block)


def test_a_residual_has_neither_strides_nor_activations():
    good = make_residual(3).first
    for bad in (make_convolution(3, 3, 3), make_convolution(3, 3, 3, padding="same", activation="relu")):
        refuse(
            UnsupportedPolicyError, r"torso\[0\]\.second has padding .* must be 'same', 1 and None", Residual(good, bad)
        )


def test_a_residual_that_changes_the_channels_is_refused():
    first, second = make_residual(3).first, make_convolution(4, 3, 3, padding="same")
    refuse(
        InvalidPolicyError, r"cannot add \[8, 8, 4\] to \[8, 8, 3\]: give second 3 channels", Residual(first, second)
    )


def test_images_have_no_normalisation():
    with pytest.raises(UnsupportedPolicyError, match="images are divided by 255"):
        PolicyGraph(
            torso=make_nature(size=40).torso,
            heads=make_nature(size=40).heads,
            image_shape=(40, 40, 4),
            observation_shift=np.zeros(6400, np.float32),
            observation_scale=np.ones(6400, np.float32),
        )
