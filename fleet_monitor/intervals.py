"""Cumulative sketches become intervals: buckets subtract, quantiles do not."""

from fleet_protocol.messages import SketchState
from fleet_protocol.sketch import LatencySketch


def difference(newer: SketchState, older: SketchState) -> LatencySketch:
    """What was added to a cumulative sketch since `older`.

    Minimum and maximum of the interval alone are not known; those of the whole bound them. A sketch that shrank (its
    process was replaced) is taken whole.
    """
    before = dict(zip(older.indices, older.counts, strict=True))
    counts = {i: n - before.get(i, 0) for i, n in zip(newer.indices, newer.counts, strict=True)}
    zeros = newer.zeros - older.zeros
    if newer.count < older.count or zeros < 0 or any(count < 0 for count in counts.values()):
        return LatencySketch.from_state(newer)
    kept = {index: count for index, count in counts.items() if count}
    return LatencySketch.from_state(
        SketchState(
            count=sum(kept.values()) + zeros,
            total=newer.total - older.total,
            minimum=newer.minimum,
            maximum=newer.maximum,
            zeros=zeros,
            indices=list(kept),
            counts=list(kept.values()),
        )
    )
