"""Waits before the next try: longer and longer up to a limit, spread over the whole of it, and short again at last."""

import random

import pytest

from fleet_protocol.backoff import Backoff


def waits(failures: int, *, boards: int = 2000) -> list[float]:
    """The wait of many boards that have failed so often."""
    chosen = []
    for board in range(boards):
        backoff = Backoff(random.Random(board))
        for _ in range(failures - 1):
            backoff.next_wait_s(has_lasted=False)
        chosen.append(backoff.next_wait_s(has_lasted=False))
    return chosen


@pytest.mark.parametrize(("failures", "limit_s"), [(1, 0.5), (2, 1.0), (4, 4.0), (7, 20.0), (50, 20.0)])
def test_boards_spread_over_all_of_a_span_that_doubles_up_to_twenty_seconds(failures: int, limit_s: float):
    spread = waits(failures)
    assert 0 <= min(spread) < 0.05 * limit_s
    assert 0.95 * limit_s < max(spread) <= limit_s
    assert sum(spread) / len(spread) == pytest.approx(limit_s / 2, rel=0.1)


def test_a_connection_that_has_lasted_makes_the_next_wait_short():
    backoff = Backoff(random.Random(1))
    for _ in range(2000):  # 2.0**1024 is no float
        backoff.next_wait_s(has_lasted=False)
    assert backoff.next_wait_s(has_lasted=True) <= 0.25
