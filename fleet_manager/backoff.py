"""Patience with whoever guesses: after a few wrong tries an address waits, each time twice as long."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_FREE_TRIES: Final = 5
"""A person mistypes."""
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 600.0
_MAX_ADDRESSES: Final = 10_000
"""Beyond that the one that has been quiet longest is forgotten: memory is bounded, whoever comes."""


class Backoff:
    """Counts wrong tries by who made them; one thread.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, who: str) -> float:
        """Seconds that somebody has to wait before the next try; 0 = none."""
        number, last = self._tries.get(who, (0, 0.0))
        if number < _FREE_TRIES:
            return 0.0
        pause = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(number - _FREE_TRIES, 30))
        return max(0.0, last + pause - self._clock())

    def note(self, who: str) -> None:
        """Note a wrong try; after an hour without one it begins anew."""
        number, last = self._tries.pop(who, (0, 0.0))
        number = 0 if self._clock() - last > 6 * _LONGEST_WAIT_S else number
        self._tries[who] = (number + 1, self._clock())
        if len(self._tries) > _MAX_ADDRESSES:
            self._tries.popitem(last=False)
