"""Decoded telemetry with numbers that would break sums, percentiles or the database is refused."""

import math

import pytest
from fleet_factories import make_telemetry, sketch_of

from fleet_monitor.soundness import require_sound
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.messages import Health, RunCounters, SketchState, Telemetry


def test_telemetry_of_a_board_is_sound():
    require_sound(make_telemetry(sketches={"step_us": sketch_of([0.0, 1e-3, 12.5, 1e9]), "empty": SketchState()}))


@pytest.mark.parametrize(
    "changes",
    [
        {"uptime_s": math.nan},
        {"health": Health(pss_mb=math.inf)},
        {"policy_version": 2**64 - 1},
        {"runs": {"r": RunCounters(env_steps=2**63)}},
        {"runs": {"r": RunCounters(dropped={"stale": 2**47})}},
        {"counters": {"c": 2**60}},
        {"sketches": {"s": SketchState(count=1, total=math.nan, minimum=1.0, maximum=1.0, indices=[0], counts=[1])}},
        {"sketches": {"s": SketchState(count=1, maximum=1.0, indices=[10**6], counts=[1])}},
        {"sketches": {"s": SketchState(count=1, maximum=1.0, indices=[-(10**6)], counts=[1])}},
        {"sketches": {"s": SketchState(count=2, maximum=1.0, indices=[0], counts=[1])}},
        {"sketches": {"s": SketchState(count=1, maximum=1.0, indices=[0, 1], counts=[1])}},
        {"sketches": {"s": SketchState(count=3, maximum=1.0, indices=[0, 0], counts=[1, 2])}},
    ],
    ids=str,
)
def test_numbers_without_sense_are_refused(changes: dict[str, object]):
    travelled = decode(encode(make_telemetry(**changes)), Telemetry)
    with pytest.raises(BadMessage):
        require_sound(travelled)
