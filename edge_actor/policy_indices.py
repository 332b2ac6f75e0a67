"""Constants that tell an operator where to read and how large its result is, checked before a kernel believes them.

They are the one part of an operator that is not plain arithmetic on whole tensors: out of range, a kernel would follow
them out of its memory, or ask for more of it than there is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]

_MOST_PADDING: Final = 256
_LARGEST_SIDE: Final = 1 << 20
_REST: Final = -1
"""Stands for what is left."""


def _are_sides(_: Sequence[int], sides: Indices) -> bool:
    known = sides[sides != _REST]
    return sides.size - known.size <= 1 and bool(((known > 0) & (known <= _LARGEST_SIDE)).all())


def _are_axes(shape: Sequence[int], axes: Indices) -> bool:
    return bool(np.isin(axes, np.arange(len(shape))).all()) and len(set(axes.tolist())) == axes.size


def _are_all_axes(shape: Sequence[int], axes: Indices) -> bool:
    return _are_axes(shape, axes) and axes.size == len(shape)


def _are_paddings(shape: Sequence[int], paddings: Indices) -> bool:
    return paddings.size == 2 * len(shape) and bool(((paddings >= 0) & (paddings <= _MOST_PADDING)).all())


def _are_cuts(shape: Sequence[int], begins: Indices, ends: Indices, strides: Indices) -> bool:
    if {begins.size, ends.size, strides.size} != {len(shape)} or (strides != 1).any():
        return False
    return bool(((begins >= 0) & (begins < ends) & (ends <= np.array(shape))).all())


_RULES: Final[Mapping[str, Callable[..., bool]]] = {
    "MEAN": _are_axes,
    "PAD": _are_paddings,
    "RESHAPE": _are_sides,
    "STRIDED_SLICE": _are_cuts,
    "TRANSPOSE": _are_all_axes,
}


def has_indices(operator: str) -> bool:
    """Whether all inputs but the first are indices."""
    return operator in _RULES


def are_indices_sound(operator: str, shape: Sequence[int], indices: Sequence[NDArray[Any]]) -> bool:
    """Whether indices stay within a tensor, and what they make stays small.

    Args:
        operator: One that has indices.
        shape: Of what it reads, for one copy.
        indices: Its other inputs, int32, flat.
    """
    return _RULES[operator](shape, *indices)
