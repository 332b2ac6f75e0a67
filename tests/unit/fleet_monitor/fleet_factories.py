"""What boards say, with defaults, and a clock that tests turn."""

from dataclasses import dataclass, field

import msgspec
from numpy.typing import ArrayLike

from fleet_monitor.fleet import BoardView, Fleet
from fleet_protocol.codec import encode
from fleet_protocol.messages import Birth, Death, Health, LogLine, Message, RunCounters, SketchState, Telemetry
from fleet_protocol.sketch import LatencySketch
from fleet_protocol.topics import TopicAddress


def make_birth(board_id: str = "b1", **changes: object) -> Birth:
    birth = Birth(board_id=board_id, boot_id="boot-1", session_id="session-1", software="edgerl 0.1", runtime="litert")
    return msgspec.structs.replace(birth, **changes)


def make_death(board_id: str = "b1", *, session_id: str = "session-1", reason: str = "lost") -> Death:
    return Death(board_id=board_id, boot_id="boot-1", session_id=session_id, reason=reason)


def make_telemetry(board_id: str = "b1", *, env_steps: int = 100, **changes: object) -> Telemetry:
    telemetry = Telemetry(
        board_id=board_id,
        boot_id="boot-1",
        uptime_s=0.0,
        run_id="run-1",
        policy_version=7,
        runs={
            "run-0": RunCounters(produced=1, acked=1, env_steps=0),
            "run-1": RunCounters(
                produced=9, acked=5, dropped={"stale": 1, "outbox_full": 1}, in_outbox=2, env_steps=env_steps
            ),
        },
        health=Health(pss_mb=81.5, outbox_bytes=1000),
    )
    return msgspec.structs.replace(telemetry, **changes)


def sketch_of(values: ArrayLike) -> SketchState:
    sketch = LatencySketch()
    sketch.add_many(values)
    return sketch.to_state()


@dataclass
class HeardFleet:
    """A fleet with a clock, told messages as the broker would bring them."""

    now_s: float = 1000.0
    fleet: Fleet = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = Fleet(clock=lambda: self.now_s)

    def hear(self, message: Message, *, board_id: str = "b1") -> None:
        kind = {Birth: "status", Death: "status", Telemetry: "telemetry", LogLine: "log"}.get(type(message), "learner")
        self.fleet.take(TopicAddress(kind, "" if kind == "learner" else board_id), encode(message))

    def board(self, board_id: str = "b1") -> BoardView:
        return {board.board_id: board for board in self.fleet.view().boards}[board_id]
