"""A sketch is right to 1 % at every quantile, exact in count, sum and extremes, and merges as if it had seen all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.codec import decode, encode
from fleet_protocol.messages import SketchState
from fleet_protocol.sketch import LatencySketch

VALUES = st.lists(st.floats(0, 1e7, allow_nan=False), min_size=1, max_size=200)
SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0)


def sketch_of(values: list[float] | np.ndarray) -> LatencySketch:
    sketch = LatencySketch()
    sketch.add_many(values)
    return sketch


@given(VALUES)
def test_every_quantile_is_within_one_percent_of_the_exact_one(values: list[float]):
    sketch = sketch_of(values)
    for share in SHARES:
        exact = np.quantile(values, share, method="lower")
        assert sketch.quantile(share) == pytest.approx(exact, rel=0.0101, abs=1e-9)


@given(VALUES, VALUES)
def test_merging_is_the_same_as_having_seen_all(left: list[float], right: list[float]):
    merged, whole = sketch_of(left), sketch_of([*left, *right])
    merged.merge(sketch_of(right).to_state())
    for share in SHARES:
        assert merged.quantile(share) == whole.quantile(share)
    assert (merged.count, merged.minimum, merged.maximum) == (whole.count, whole.minimum, whole.maximum)
    assert merged.total == pytest.approx(whole.total)


@given(VALUES)
def test_count_sum_and_extremes_are_exact_and_survive_the_wire(values: list[float]):
    sketch = LatencySketch.from_state(sketch_of(values).to_state())
    assert (sketch.count, sketch.minimum, sketch.maximum) == (len(values), min(values), max(values))
    assert sketch.total == pytest.approx(sum(values))
    assert sketch.mean == pytest.approx(sum(values) / len(values))


@given(VALUES)
def test_a_sketch_comes_back_from_its_state_as_it_was(values: list[float]):
    state = sketch_of(values).to_state()
    assert LatencySketch.from_state(decode(encode(state), SketchState)).to_state() == state


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_million_latencies_have_the_quantiles_that_numpy_finds(scale: float):
    values = np.random.default_rng(0).lognormal(0, 0.8, 1_000_000) * scale
    sketch = LatencySketch()
    for part in np.array_split(values, 7):
        sketch.add_many(part)
    for share in (0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999):
        assert sketch.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.0101)


def test_merging_a_collapsed_sketch_keeps_the_limit_and_the_upper_quantiles():
    low, high = np.logspace(-8, 2, 3000), np.logspace(0, 8, 3000)
    merged = sketch_of(low)
    merged.merge(sketch_of(high))
    assert len(merged.to_state().indices) == 512
    assert sum(merged.to_state().counts) == merged.count == 6000
    whole = np.concatenate([low, high])
    for share in (0.9, 0.99):
        assert merged.quantile(share) == pytest.approx(np.quantile(whole, share, method="lower"), rel=0.0101)


def test_what_was_refused_changes_nothing():
    sketch = sketch_of([1.0, 2.0])
    before = sketch.to_state()
    for values in ([3.0, -1.0], [3.0, np.nan]):
        with pytest.raises(ValueError, match="finite values"):
            sketch.add_many(values)
    with pytest.raises(ValueError, match="sketch"):
        sketch.merge(SketchState(count=1))
    assert sketch.to_state() == before


FLOATS = st.sampled_from([0.0, 1e-300, 1.0, 1e300, -1.0, math.nan, math.inf]) | st.floats()
NUMBERS = st.sampled_from([0, 1, 2, 5000, 5001, 2**63, 2**64 - 1])
STATES = st.builds(
    SketchState,
    count=NUMBERS,
    total=FLOATS,
    minimum=FLOATS,
    maximum=FLOATS,
    zeros=NUMBERS,
    indices=st.lists(st.integers(-6000, 6000) | st.sampled_from([-(2**63), 2**64 - 1]), max_size=4),
    counts=st.lists(NUMBERS, max_size=4),
)


@given(STATES)
def test_any_state_from_the_wire_is_refused_or_has_ordered_quantiles_between_its_extremes(state: SketchState):
    try:
        sketch = LatencySketch.from_state(state)
    except ValueError:
        return
    if sketch.count:
        quantiles = [sketch.quantile(share) for share in SHARES]
        assert sketch.minimum <= quantiles[0]
        assert quantiles == sorted(quantiles)
        assert quantiles[-1] <= sketch.maximum


def test_upper_quantiles_stay_right_when_the_lowest_buckets_collapse():
    values = np.logspace(-8, 8, 5000)
    sketch = sketch_of(values)
    assert len(sketch.to_state().indices) == 512
    for share in (0.9, 0.99, 0.999):
        assert sketch.quantile(share) == pytest.approx(np.quantile(values, share, method="lower"), rel=0.0101)


def test_an_empty_sketch_has_no_quantile():
    assert np.isnan(LatencySketch().quantile(0.5))
    assert LatencySketch.from_state(SketchState()).count == 0


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_what_is_no_duration_is_refused(value: float):
    with pytest.raises(ValueError, match="finite values from 0"):
        LatencySketch().add(value)


@pytest.mark.parametrize(
    "state",
    [
        SketchState(count=2, total=1.0, minimum=1.0, maximum=1.0, indices=[1], counts=[1]),
        SketchState(count=1, total=1.0, minimum=1.0, maximum=1.0, indices=[1, 2], counts=[1]),
        SketchState(count=1, total=1.0, minimum=1.0, maximum=1.0, indices=[10**9], counts=[1]),
        SketchState(count=1, total=1.0, minimum=1.0, maximum=1.0, indices=[-(10**9)], counts=[1]),
        SketchState(count=1, total=1.0, minimum=2.0, maximum=1.0, indices=[1], counts=[1]),
        SketchState(count=1, total=float("nan"), minimum=1.0, maximum=1.0, indices=[1], counts=[1]),
        SketchState(count=2, total=2.0, minimum=1.0, maximum=1.0, indices=[1, 1], counts=[1, 1]),
    ],
)
def test_a_sketch_from_the_wire_that_contradicts_itself_is_refused(state: SketchState):
    with pytest.raises(ValueError, match="sketch"):
        LatencySketch.from_state(state)
