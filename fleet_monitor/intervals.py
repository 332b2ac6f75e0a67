"""Cumulative sketches become intervals: buckets subtract, quantiles do not."""

from dataclasses import dataclass
from typing import Final

from fleet_protocol.messages import Health, SketchState
from fleet_protocol.sketch import RELATIVE_ERROR, LatencySketch

_GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)


@dataclass(frozen=True, slots=True)
class Interval:
    """Latencies of one board between two moments, by measure, and how the board was at its end."""

    board_id: str
    boot_id: str
    sketches: dict[str, LatencySketch]
    health: Health


def difference(newer: SketchState, older: SketchState) -> LatencySketch:
    """What was added to a cumulative sketch since `older`.

    Quantiles and maximum of the interval are within 1 %; its minimum is only bounded, by that of the whole. A sketch
    that shrank (its process was replaced) is taken whole.
    """
    counts = dict(zip(newer.indices, newer.counts, strict=True))
    lowest = min(newer.indices, default=0)
    for index, count in zip(older.indices, older.counts, strict=True):
        # A sketch with too many buckets adds its lowest to the next, so that is where those of `older` are now.
        index_now = max(index, lowest)
        counts[index_now] = counts.get(index_now, 0) - count
    zeros = newer.zeros - older.zeros
    if zeros < 0 or any(count < 0 for count in counts.values()):
        return LatencySketch.from_state(newer)
    kept = {index: count for index, count in counts.items() if count}
    return LatencySketch.from_state(
        SketchState(
            count=sum(kept.values()) + zeros,
            total=max(0.0, newer.total - older.total),
            minimum=newer.minimum,
            maximum=_maximum(newer, older, top=max(kept, default=None)),
            zeros=zeros,
            indices=list(kept),
            counts=list(kept.values()),
        )
    )


def _maximum(newer: SketchState, older: SketchState, *, top: int | None) -> float:
    """Exact where the interval set a new maximum; else the middle of its highest bucket."""
    if older.count == 0 or newer.maximum > older.maximum:
        return newer.maximum
    middle = 0.0 if top is None else 2 * _GAMMA**top / (_GAMMA + 1)
    return min(max(newer.minimum, middle), newer.maximum)
