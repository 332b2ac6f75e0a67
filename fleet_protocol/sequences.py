"""Sets of sequence numbers as ranges: what acks, outboxes and ledgers are made of (D2, D3)."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class SequenceSet:
    """A set of integers that stays small while they come in long runs.

    Adding is O(number of ranges) at worst and O(log) for the usual case, the next number.
    """

    __slots__ = ("_firsts", "_lasts", "_size")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._size = 0
        for first, last in ranges:
            self.add_range(first, last)

    def add(self, number: int) -> bool:
        """Add one number; False if it was there."""
        return self.add_range(number, number) > 0

    def add_range(self, first: int, last: int) -> int:
        """Add `first` to `last`, both included, and return how many of them were new.

        Raises:
            ValueError: `last` is below `first`.
        """
        if last < first:
            raise ValueError(f"a range runs upwards: got {first} to {last}")
        left = bisect_right(self._lasts, first - 2)  # ranges before this one do not even touch it
        right = bisect_right(self._firsts, last + 1)
        swallowed = sum(self._lasts[i] - self._firsts[i] + 1 for i in range(left, right))
        if left < right:
            first, last = min(first, self._firsts[left]), max(last, self._lasts[right - 1])
        self._firsts[left:right] = [first]
        self._lasts[left:right] = [last]
        added = last - first + 1 - swallowed
        self._size += added
        return added

    def discard(self, number: int) -> bool:
        """Remove one number; False if it was not there."""
        index = bisect_right(self._firsts, number) - 1
        if index < 0 or self._lasts[index] < number:
            return False
        first, last = self._firsts[index], self._lasts[index]
        pieces = [(low, high) for low, high in ((first, number - 1), (number + 1, last)) if low <= high]
        self._firsts[index : index + 1] = [low for low, _ in pieces]
        self._lasts[index : index + 1] = [high for _, high in pieces]
        self._size -= 1
        return True

    @property
    def lowest(self) -> int | None:
        """The lowest number; None of an empty set."""
        return self._firsts[0] if self._firsts else None

    @property
    def highest(self) -> int | None:
        """The highest number; None of an empty set."""
        return self._lasts[-1] if self._lasts else None

    def overlap(self, other: "SequenceSet") -> int:
        """How many numbers both sets have; the time is that of their ranges, however long these are."""
        shared = 0
        for first, last in other.ranges():
            index = max(0, bisect_right(self._firsts, first) - 1)
            while index < len(self._firsts) and self._firsts[index] <= last:
                shared += max(0, min(last, self._lasts[index]) - max(first, self._firsts[index]) + 1)
                index += 1
        return shared

    def ranges(self) -> list[tuple[int, int]]:
        """The set as ascending, disjoint (first, last) ranges, both ends included."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]

    def __iter__(self) -> Iterator[int]:
        for first, last in zip(self._firsts, self._lasts, strict=True):
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"SequenceSet({self.ranges()})"
