"""Decoded telemetry with numbers that would break sums, percentiles or the database is refused."""

import math

import pytest
from msgspec.structs import replace

from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.messages import Health, RunCounters, SketchState, Telemetry
from fleet_protocol.sketch import LatencySketch
from fleet_protocol.soundness import require_sound

TELEMETRY = Telemetry(
    board_id="b1",
    boot_id="boot-1",
    uptime_s=0.0,
    runs={"run-1": RunCounters(produced=9, acked=5, dropped={"stale": 1, "outbox_full": 1}, in_outbox=2)},
    health=Health(pss_mb=81.5, outbox_bytes=1000),
)


def test_telemetry_of_a_board_is_sound():
    sketch = LatencySketch()
    sketch.add_many([0.0, 1e-3, 12.5, 1e9])
    require_sound(replace(TELEMETRY, sketches={"step_us": sketch.to_state(), "empty": SketchState()}))


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
    travelled = decode(encode(replace(TELEMETRY, **changes)), Telemetry)
    with pytest.raises(BadMessage):
        require_sound(travelled)
