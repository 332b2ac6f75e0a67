"""Which recipes are worth their while on a class of boards, by what one of them has measured."""

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final

from compressor import CompressionRecipe
from compressor.recipe import float32

_FRESH_RUNS: Final = 3
"""The fastest of several noisy figures is fast by luck too: those that are in question are measured anew."""


class RecipeRanking:
    """Says what to measure next, and at the end which recipes are faster than float32.

        each candidate once --> those faster than float32, and it, three times more, in turns --> sorted by the median

    Args:
        candidates: What can be measured.

    Attributes:
        measured_us: What was measured, p50 of one inference in microseconds, in the order in which it was.
    """

    def __init__(self, candidates: Sequence[CompressionRecipe]) -> None:
        self._screened = deque(candidates)
        self._fresh: deque[CompressionRecipe] | None = None
        self._dropped: set[CompressionRecipe] = set()
        self.measured_us: dict[CompressionRecipe, list[float]] = {recipe: [] for recipe in candidates}

    @property
    def next(self) -> CompressionRecipe | None:
        """What to measure now; None when nothing is left to be."""
        if self._screened:
            return self._screened[0]
        if self._fresh is None:
            self._fresh = deque(self._finalists() * _FRESH_RUNS)
        while self._fresh and self._fresh[0] in self._dropped:
            self._fresh.popleft()
        return self._fresh[0] if self._fresh else None

    def note(self, us: float) -> None:
        """Note the p50 of what was next."""
        recipe = self._take()
        self.measured_us[recipe].append(us)

    def drop(self) -> None:
        """What was next cannot be measured: it does not run there."""
        self._dropped.add(self._take())

    def fastest_first(self) -> list[CompressionRecipe]:
        """The recipes that are faster than float32 by their fresh runs, and float32."""
        fresh = {
            recipe: median(times[1:])
            for recipe, times in self.measured_us.items()
            if len(times) > 1 and recipe not in self._dropped
        }
        bound = fresh.get(float32(), float("inf"))
        faster = sorted((recipe for recipe, us in fresh.items() if us < bound), key=fresh.__getitem__)
        return [*faster, float32()]

    def _finalists(self) -> list[CompressionRecipe]:
        """What was faster than float32 at first, and float32 to be compared with."""
        once = {recipe: times[0] for recipe, times in self.measured_us.items() if times}
        bound = once.get(float32(), float("inf"))
        faster = [recipe for recipe, us in once.items() if us < bound and recipe != float32()]
        return [*faster, float32()] if faster and float32() in once else faster

    def _take(self) -> CompressionRecipe:
        recipe = self.next
        if recipe is None:
            raise ValueError("nothing was to be measured")
        (self._screened or self._fresh or deque()).popleft()
        return recipe
