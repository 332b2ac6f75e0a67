"""Shape checks at the door of every function of this package.

PyTorch broadcasts `[T, B]` against `[B]` or `[T, 1]` without a word, and the result trains, badly. So
each function says what it expects before it computes.
"""

from collections.abc import Sequence

from torch import Tensor


def require_rank(rank: int, **tensors: Tensor) -> None:
    """Check that every tensor, passed under its argument's name, has `rank` dimensions.

    Raises:
        ValueError: A tensor has another rank; the message names the argument and its shape.
    """
    for name, tensor in tensors.items():
        if tensor.ndim != rank:
            raise ValueError(f"{name}: expected {rank} dimensions, got shape {list(tensor.shape)}")


def require_shape(shape: Sequence[int], **tensors: Tensor) -> None:
    """Check that every tensor, passed under its argument's name, has exactly `shape`.

    Raises:
        ValueError: A tensor has another shape; the message names the argument and both shapes.
    """
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
