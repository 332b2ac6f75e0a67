"""A SequenceSet behaves like a set of integers, and its ranges are ascending, disjoint, and as few as can be."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.sequences import SequenceSet

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "discard", "range"]), st.integers(0, 40), st.integers(0, 6)), max_size=60
)


@given(OPERATIONS)
def test_it_does_what_a_set_does(operations: list[tuple[str, int, int]]):
    truth: set[int] = set()
    tested = SequenceSet()
    for kind, number, length in operations:
        if kind == "add":
            assert tested.add(number) == (number not in truth)
            truth.add(number)
        elif kind == "discard":
            assert tested.discard(number) == (number in truth)
            truth.discard(number)
        else:
            new = set(range(number, number + length + 1))
            assert tested.add_range(number, number + length) == len(new - truth)
            truth |= new
        assert list(tested) == sorted(truth)
        assert len(tested) == len(truth)
        assert all((n in tested) == (n in truth) for n in range(-1, 50))
        ranges = tested.ranges()
        assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(ranges))


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_overlap_is_the_size_of_the_intersection(one: set[int], other: set[int]):
    overlap = SequenceSet((n, n) for n in one).overlap(SequenceSet((n, n) for n in other))
    assert overlap == len(one & other)


def test_overlap_does_not_walk_through_long_ranges():
    assert SequenceSet([(0, 2**48)]).overlap(SequenceSet([(5, 2**47), (2**48, 2**49)])) == 2**47 - 5 + 1 + 1


def test_it_comes_back_from_its_ranges():
    ranges = [(0, 3), (7, 7), (9, 20)]
    assert SequenceSet(ranges).ranges() == ranges


def test_a_range_of_any_size_costs_no_more_than_one():
    far = SequenceSet([(0, 10**12)])
    assert far.add_range(5, 10**12 + 1) == 1
    assert far.discard(7)
    assert far.ranges() == [(0, 6), (8, 10**12 + 1)]


@given(st.permutations(range(30)))
def test_any_order_of_adding_ends_in_one_range(numbers: list[int]):
    assert SequenceSet((number, number) for number in numbers).ranges() == [(0, 29)]


def test_a_range_that_runs_downwards_is_refused():
    with pytest.raises(ValueError, match="upwards"):
        SequenceSet([(3, 2)])
