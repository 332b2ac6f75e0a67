"""Latencies that can be merged: a sketch with 1 % relative error, and exact count, sum, minimum and maximum.

The mapping is DDSketch's (Masson, Rim and Lee 2019, https://arxiv.org/abs/1908.10693): bucket i holds the values in
(gamma^(i-1), gamma^i] with gamma = (1 + a) / (1 - a), and 2 gamma^i / (gamma + 1) is within a relative error a of all
of them. Merging adds counts, so a board's sketch, a fleet's and an hour's are made the same way.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fleet_protocol.messages import SketchState

RELATIVE_ERROR: Final = 0.01
_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)
_MAX_BUCKETS: Final = 512
"""Covers 4.4 decades; beyond that the lowest collapse, and the upper quantiles stay exact to 1 %."""
_MAX_INDEX: Final = 5000
"""Far beyond any duration (gamma^5000 is 10^43), and far from where a power would overflow."""
_SMALLEST: Final = 1e-9
"""Anything below counts as zero."""


class LatencySketch:
    """Counts of values in logarithmic buckets. Values are not negative; the unit is the caller's."""

    __slots__ = ("_buckets", "count", "maximum", "minimum", "total", "zeros")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf
        self.zeros = 0
        self._buckets: dict[int, int] = {}

    def add(self, value: float) -> None:
        """Add one value."""
        self.add_many([value])

    def add_many(self, values: ArrayLike) -> None:
        """Add an array of values, in any shape.

        Raises:
            ValueError: A value is negative or not finite.
        """
        array: NDArray[np.float64] = np.asarray(values, np.float64).ravel()
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and math.isfinite(high)):
            raise ValueError(f"a sketch takes finite values from 0 upwards, got {low} to {high}")
        self._extend(array.size, float(array.sum()), low, high)
        positive = array[array > _SMALLEST]
        self.zeros += array.size - positive.size
        indices = np.ceil(np.log(positive) / _LOG_GAMMA).astype(np.int64)
        for index, count in zip(*np.unique(indices, return_counts=True), strict=True):
            self._buckets[int(index)] = self._buckets.get(int(index), 0) + int(count)
        self._collapse()

    def merge(self, other: "LatencySketch | SketchState") -> None:
        """Add all that another sketch holds."""
        sketch = other if isinstance(other, LatencySketch) else LatencySketch.from_state(other)
        if sketch.count == 0:
            return
        self._extend(sketch.count, sketch.total, sketch.minimum, sketch.maximum)
        self.zeros += sketch.zeros
        for index, count in sketch._buckets.items():  # noqa: SLF001 - another one of this class
            self._buckets[index] = self._buckets.get(index, 0) + count
        self._collapse()

    def quantile(self, share: float) -> float:
        """The value below which `share` (0 to 1) of all values lie, within 1 %; nan when empty."""
        if self.count == 0:
            return math.nan
        if share <= 0:
            return self.minimum
        if share >= 1:
            return self.maximum
        rank = share * (self.count - 1)
        seen = self.zeros
        if rank < seen:
            return min(max(0.0, self.minimum), self.maximum)
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if rank < seen:
                return min(max(2 * _GAMMA**index / (_GAMMA + 1), self.minimum), self.maximum)
        return self.maximum

    @property
    def mean(self) -> float:
        """The exact mean; nan when empty."""
        return self.total / self.count if self.count else math.nan

    def to_state(self) -> SketchState:
        """What travels."""
        if self.count == 0:
            return SketchState()
        indices = sorted(self._buckets)
        return SketchState(
            count=self.count,
            total=self.total,
            minimum=self.minimum,
            maximum=self.maximum,
            zeros=self.zeros,
            indices=indices,
            counts=[self._buckets[index] for index in indices],
        )

    @classmethod
    def from_state(cls, state: SketchState) -> "LatencySketch":
        """The sketch that travelled.

        Raises:
            ValueError: Its parts contradict each other.
        """
        sketch = cls()
        if len(state.indices) != len(state.counts) or sum(state.counts) + state.zeros != state.count:
            raise ValueError(f"a sketch of {state.count} values has buckets for another number")
        if len(set(state.indices)) != len(state.indices) or max(map(abs, state.indices), default=0) > _MAX_INDEX:
            raise ValueError("a sketch has a bucket twice, or one that no duration falls into")
        if not (0 <= state.minimum <= state.maximum < math.inf and 0 <= state.total < math.inf):
            raise ValueError("a sketch has extremes or a sum that no durations have")
        if state.count:
            sketch._extend(state.count, state.total, state.minimum, state.maximum)
            sketch.zeros = state.zeros
            sketch._buckets = dict(zip(state.indices, state.counts, strict=True))
            sketch._collapse()
        return sketch

    def _extend(self, count: int, total: float, minimum: float, maximum: float) -> None:
        self.count += count
        self.total += total
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)

    def _collapse(self) -> None:
        surplus = len(self._buckets) - _MAX_BUCKETS
        if surplus <= 0:
            return
        ordered = sorted(self._buckets)
        for index in ordered[:surplus]:
            self._buckets[ordered[surplus]] += self._buckets.pop(index)
