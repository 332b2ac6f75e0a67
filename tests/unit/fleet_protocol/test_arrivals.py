"""A queue between threads refuses what it has no room for, and keeps room for what is said only once."""

import queue

import pytest

from fleet_protocol.arrivals import Arrivals


def test_what_is_left_is_found_in_order_until_the_end():
    arrivals: Arrivals[str] = Arrivals(max_messages=8, max_bytes=100)
    assert arrivals.put("a", size_bytes=1)
    assert arrivals.put("b", size_bytes=1)
    arrivals.end()
    assert [arrivals.get(), arrivals.get(), arrivals.get()] == ["a", "b", None]
    with pytest.raises(queue.Empty):
        arrivals.get(0.0)


@pytest.mark.parametrize("limit", ["messages", "bytes"])
def test_what_comes_again_has_a_quarter_of_the_room(limit: str):
    size, arrivals = (
        (0, Arrivals[int](max_messages=8, max_bytes=1))
        if limit == "messages"
        else (
            10,
            Arrivals[int](max_messages=1000, max_bytes=80),
        )
    )
    assert [arrivals.put(n, size_bytes=size, comes_again=True) for n in range(4)] == [True, True, False, False]
    assert [arrivals.put(n, size_bytes=size) for n in range(8)] == [True] * 6 + [False] * 2
    assert len(arrivals) == 8
    assert arrivals.get() == 0
    assert arrivals.put(9, size_bytes=size)
