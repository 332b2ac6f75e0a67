"""The difference of two cumulative sketches is the sketch of what came between, to 1 %."""

import math

import numpy as np
import pytest
from fleet_factories import sketch_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fleet_monitor.intervals import difference
from fleet_protocol.messages import SketchState
from fleet_protocol.sketch import RELATIVE_ERROR

TOLERANCE = RELATIVE_ERROR * 1.001


def samples(seed: int, *, median: float, count: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).lognormal(np.log(median), 0.5, count)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [1, 10, 5000])
def test_percentiles_of_an_interval_are_those_of_its_values(share: float, count: int):
    before, since = samples(1, median=100.0, count=4000), samples(2, median=300.0, count=count)
    interval = difference(sketch_of(np.concatenate([before, since])), sketch_of(before))
    assert interval.count == count
    assert interval.total == pytest.approx(since.sum())
    assert interval.quantile(share) == pytest.approx(np.quantile(since, share, method="lower"), rel=TOLERANCE)


def test_a_new_maximum_is_exact():
    assert difference(sketch_of([5.0, 7.0, 70.123]), sketch_of([5.0])).quantile(1) == 70.123


def test_a_maximum_below_an_older_one_is_within_one_percent():
    interval = difference(sketch_of([5.0, 900.0, 70.0, 60.0]), sketch_of([5.0, 900.0]))
    assert interval.quantile(1) == pytest.approx(70.0, rel=TOLERANCE)


def test_zeros_are_subtracted_too():
    interval = difference(sketch_of([0.0, 0.0, 0.0, 4.0]), sketch_of([0.0, 4.0]))
    assert (interval.count, interval.zeros, interval.quantile(1)) == (2, 2, 0.0)


def test_nothing_new_is_an_empty_sketch():
    state = sketch_of([1.0, 2.0, 3.0])
    assert difference(state, state).count == 0


def test_since_nothing_everything_is_new():
    assert difference(sketch_of([1.0, 2.0]), SketchState()).to_state() == sketch_of([1.0, 2.0])


def test_a_sketch_that_shrank_is_taken_whole():
    newer = sketch_of([1.0, 2.0])
    assert difference(newer, sketch_of([1.0, 2.0, 3.0])).to_state() == newer


def test_buckets_that_have_been_collapsed_meanwhile_still_subtract():
    wide = np.geomspace(1e-3, 1e3, 3000)  # 690 buckets; a sketch keeps the upper 512
    interval = difference(sketch_of(np.concatenate([wide[:600], wide])), sketch_of(wide[:600]))
    assert interval.count == wide.size
    assert interval.quantile(0.9) == pytest.approx(np.quantile(wide, 0.9, method="lower"), rel=TOLERANCE)


durations = st.lists(st.floats(0, 1e9), max_size=30)


@given(first=durations, second=durations)
def test_any_two_sketches_of_boards_subtract(first: list[float], second: list[float]):
    grown = difference(sketch_of(first + second), sketch_of(first))
    assert grown.count == len(second)
    unrelated = difference(sketch_of(second), sketch_of(first))
    for interval in (grown, unrelated):
        assert interval.count == 0 or math.isfinite(interval.quantile(0.99))
