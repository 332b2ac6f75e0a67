"""The live picture of a fleet, kept up by one message after the other. Read this first."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from fleet_monitor.intervals import difference
from fleet_protocol.codec import BadMessage, decode
from fleet_protocol.messages import Birth, Death, LearnerReport, Problem, SketchState, Status, Telemetry
from fleet_protocol.sketch import LatencySketch
from fleet_protocol.topics import TopicAddress

BoardState = Literal["online", "stale", "offline", "lost"]

STALE_AFTER_S: Final = 6.0
"""Three telemetry periods."""


@dataclass(frozen=True, slots=True)
class BoardView:
    """One board at one moment.

    Attributes:
        board_id: The board.
        state: online; stale (online, but silent for some time); offline (said goodbye); lost (its will said so).
        age_s: Seconds since it was last heard; None if never.
        birth: What it said of itself last, if it is there.
        telemetry: Its last report.
        problem: Why it does not act, if it does not.
    """

    board_id: str
    state: BoardState
    age_s: float | None
    birth: Birth | None
    telemetry: Telemetry | None
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class FleetView:
    """The whole fleet at one moment."""

    learner: LearnerReport | None
    boards: list[BoardView]
    ignored: dict[str, int]


@dataclass(frozen=True, slots=True)
class Interval:
    """Latencies of one board between two moments, by measure."""

    board_id: str
    boot_id: str
    sketches: dict[str, LatencySketch]


@dataclass(slots=True)
class _Board:
    birth: Birth | None = None
    death: Death | None = None
    telemetry: Telemetry | None = None
    heard_at: float | None = None
    marked: Telemetry | None = field(default=None)


class Fleet:
    """Takes messages; gives views. Not thread-safe: `Collector` guards it.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._boards: dict[str, _Board] = {}
        self._learner: LearnerReport | None = None
        self._ignored: Counter[str] = Counter()

    def take(self, address: TopicAddress, payload: bytes) -> None:
        """Take one message; one that is not what its topic carries is counted, no more."""
        try:
            self._take(address, payload)
        except BadMessage:
            self._ignored[f"{address.kind}_undecodable"] += 1

    def view(self) -> FleetView:
        """The fleet now, boards by id."""
        boards = [self._view(board_id, board) for board_id, board in sorted(self._boards.items())]
        return FleetView(self._learner, boards, dict(self._ignored))

    def intervals(self) -> list[Interval]:
        """Latencies since the last call, of the boards that were heard since."""
        intervals: list[Interval] = []
        for board_id, board in self._boards.items():
            newest = board.telemetry
            if newest is None or newest is board.marked:
                continue
            before = board.marked if board.marked and board.marked.boot_id == newest.boot_id else None
            sketches = {
                name: difference(state, before.sketches.get(name, SketchState()) if before else SketchState())
                for name, state in newest.sketches.items()
            }
            board.marked = newest
            intervals.append(Interval(board_id, newest.boot_id, sketches))
        return intervals

    def _take(self, address: TopicAddress, payload: bytes) -> None:
        match address.kind:
            case "learner":
                self._learner = decode(payload, LearnerReport)
            case "status":
                self._take_status(address.subject, decode(payload, Status))
            case "telemetry":
                telemetry = decode(payload, Telemetry)
                for state in telemetry.sketches.values():
                    _require_sound(state)
                board = self._board(address.subject, telemetry.board_id)
                board.telemetry = telemetry
                board.heard_at = self._clock()
            case _:
                self._ignored[f"{address.kind}_unexpected"] += 1

    def _take_status(self, subject: str, status: Status) -> None:
        board = self._board(subject, status.board_id)
        if isinstance(status, Birth):
            board.birth, board.death = status, None
            board.heard_at = self._clock()
        elif board.birth is None or board.birth.session_id == status.session_id:
            board.death = status  # a will of an older session says nothing about this one

    def _board(self, subject: str, board_id: str) -> _Board:
        if subject != board_id:
            raise BadMessage(f"a message of {board_id!r} came on the topic of {subject!r}")
        return self._boards.setdefault(board_id, _Board())

    def _view(self, board_id: str, board: _Board) -> BoardView:
        age_s = None if board.heard_at is None else self._clock() - board.heard_at
        state: BoardState = "online"
        if board.death is not None:
            state = "offline" if board.death.reason == "clean" else "lost"
        elif age_s is None or age_s > STALE_AFTER_S:
            state = "stale"
        problem = board.birth.problem if board.birth else None
        return BoardView(board_id, state, age_s, board.birth, board.telemetry, problem)


def _require_sound(state: SketchState) -> None:
    try:
        LatencySketch.from_state(state)
    except ValueError as error:
        raise BadMessage(str(error)) from error
