"""How long to wait before one connects again: longer after each failure, and never in step with others."""

import random
from typing import Final

_FIRST_S: Final = 0.25
_LIMIT_S: Final = 20.0
"""After a long outage 99 % of a fleet are back within nine tenths of it, which leaves room under the 30 s asked for."""
_DOUBLINGS: Final = 10
"""More would reach the limit too, and after some hours without a broker 2.0**failures no float any more."""


class Backoff:
    """Exponential back-off with full jitter, so that a thousand boards do not come back in the same second.

    Args:
        rng: Where the jitter comes from; by default the operating system's seed.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._failures = 0

    def next_wait_s(self, *, has_lasted: bool) -> float:
        """Seconds to wait before the next attempt.

        Args:
            has_lasted: The connection that has just ended was a good one; else this was one more failure.
        """
        self._failures = 0 if has_lasted else self._failures + 1
        return self._rng.uniform(0, min(_LIMIT_S, _FIRST_S * 2.0 ** min(self._failures, _DOUBLINGS)))
