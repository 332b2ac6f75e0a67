"""A sketch is right to 1 % at every quantile, exact in count, sum and extremes, and merges as if it had seen all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
