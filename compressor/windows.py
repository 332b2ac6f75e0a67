"""Slide a window over images: the geometry that convolutions and pools share, in TensorFlow Lite's terms.

"same" gives ceil(size / stride) positions. What is missing for the last one is added around the image, and an odd
pixel is added after it (https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2).
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Padding = Literal["valid", "same"]


def output_size(size: int, *, window: int, stride: int, padding: Padding) -> int:
    """Count a window's positions along one axis, all in pixels; below 1 where the window does not fit."""
    return -(-size // stride) if padding == "same" else (size - window) // stride + 1


def same_padding(size: int, *, window: int, stride: int) -> tuple[int, int]:
    """Return how many pixels "same" adds before and after one axis."""
    missing = max(0, (output_size(size, window=window, stride=stride, padding="same") - 1) * stride + window - size)
    return missing // 2, missing - missing // 2


def slide(images: FloatArray, window: tuple[int, int], *, stride: int, padding: Padding, fill: float) -> FloatArray:
    """Return what each position of a window sees.

    Args:
        images: `[N, height, width, channels]`.
        window: height and width of the window, in pixels.
        stride: pixels between two positions, along both axes.
        padding: "valid" for positions inside the image only, "same" as the module says.
        fill: the value of a pixel that "same" adds.

    Returns:
        A view `[N, rows, columns, channels, window height, window width]`.
    """
    if padding == "same":
        around = [same_padding(images.shape[axis], window=window[axis - 1], stride=stride) for axis in (1, 2)]
        images = np.pad(images, [(0, 0), *around, (0, 0)], constant_values=fill)
    seen = np.lib.stride_tricks.sliding_window_view(images, window, axis=(1, 2))
    return seen[:, ::stride, ::stride]
