"""The live picture of a fleet, kept up by one message after the other. Read this first."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from fleet_monitor.intervals import Interval, difference
from fleet_protocol.codec import BadMessage, decode
from fleet_protocol.messages import Birth, Death, LearnerReport, LogLine, Problem, SketchState, Status, Telemetry
from fleet_protocol.soundness import require_sound
from fleet_protocol.topics import TopicAddress

BoardState = Literal["online", "stale", "offline", "lost"]

STALE_AFTER_S: Final = 6.0
"""Three telemetry periods."""
_PACE_OVER_S: Final = 1.0
"""Steps come in windows: over less than this their rate says little."""


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
        steps_per_s: Environment steps a second, while it is online.
        log: The last line of its log.
    """

    board_id: str
    state: BoardState
    age_s: float | None
    birth: Birth | None
    telemetry: Telemetry | None
    problem: Problem | None
    steps_per_s: float = 0.0
    log: LogLine | None = None


@dataclass(frozen=True, slots=True)
class FleetView:
    """The whole fleet at one moment.

    Attributes:
        learner: Its last heartbeat.
        boards: By id.
        ignored: Messages that could not be used, by `<topic>_<reason>`.
    """

    learner: LearnerReport | None
    boards: list[BoardView]
    ignored: dict[str, int]


@dataclass(slots=True)
class _Board:
    birth: Birth | None = None
    death: Death | None = None
    telemetry: Telemetry | None = None
    heard_at: float | None = None
    log: LogLine | None = None
    paced: Telemetry | None = None
    """Where `steps_per_s` counts from."""
    steps_per_s: float = 0.0
    marked: Telemetry | None = None
    """What `intervals` has given away."""


class Fleet:
    """Takes messages; gives views. Not thread-safe: `Collector` guards it.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at = clock()
        self._boards: dict[str, _Board] = {}
        self._learner: LearnerReport | None = None
        self._ignored: Counter[str] = Counter()

    def take(self, address: TopicAddress, payload: bytes) -> None:
        """Take one message; one that is not what its topic carries is counted, no more."""
        try:
            self._take(address, payload)
        except BadMessage:
            self.ignore(f"{address.kind}_undecodable")

    def ignore(self, reason: str) -> None:
        """Count a message that is not used."""
        self._ignored[reason] += 1

    def view(self) -> FleetView:
        """The fleet now, boards by id."""
        boards = [self._view(board_id, board) for board_id, board in sorted(self._boards.items())]
        return FleetView(self._learner, boards, dict(self._ignored))

    def intervals(self) -> list[Interval]:
        """Latencies since the last call, and health, of the boards that were heard since."""
        intervals: list[Interval] = []
        for board_id, board in self._boards.items():
            newest, before = board.telemetry, board.marked
            if newest is None or newest is before:
                continue
            older = before.sketches if before and before.boot_id == newest.boot_id else {}
            sketches = {
                name: difference(state, older.get(name, SketchState())) for name, state in newest.sketches.items()
            }
            board.marked = newest
            intervals.append(Interval(board_id, newest.boot_id, sketches, newest.health))
        return intervals

    def _take(self, address: TopicAddress, payload: bytes) -> None:
        match address.kind:
            case "learner":
                self._learner = decode(payload, LearnerReport)
            case "status":
                self._take_status(address.subject, decode(payload, Status))
            case "telemetry":
                self._take_telemetry(address.subject, decode(payload, Telemetry))
            case "log":
                line = decode(payload, LogLine)
                self._heard(address.subject, address.subject).log = line
            case _:
                self.ignore(f"{address.kind}_unexpected")

    def _take_telemetry(self, subject: str, telemetry: Telemetry) -> None:
        require_sound(telemetry)
        board = self._heard(subject, telemetry.board_id)
        if board.telemetry is None and telemetry.uptime_s > self._clock() - self._began_at:
            board.marked = telemetry  # it was up before we were: its past belongs to no interval of ours
        board.telemetry = telemetry
        _keep_pace(board, telemetry)

    def _take_status(self, subject: str, status: Status) -> None:
        if isinstance(status, Birth):
            board = self._heard(subject, status.board_id)
            board.birth, board.death = status, None
            return
        board = self._board(subject, status.board_id)
        if board.birth is None or board.birth.session_id == status.session_id:
            board.death = status  # a will of an older session says nothing about this one

    def _heard(self, subject: str, board_id: str) -> _Board:
        board = self._board(subject, board_id)
        board.heard_at = self._clock()
        return board

    def _board(self, subject: str, board_id: str) -> _Board:
        if subject != board_id:
            raise BadMessage(f"a message of {board_id!r} came on the topic of {subject!r}")
        return self._boards.setdefault(board_id, _Board())

    def _view(self, board_id: str, board: _Board) -> BoardView:
        age_s = None if board.heard_at is None else self._clock() - board.heard_at
        state = _state(board.death, age_s)
        return BoardView(
            board_id,
            state,
            age_s,
            board.birth,
            board.telemetry,
            problem=board.birth.problem if board.birth else None,
            steps_per_s=board.steps_per_s if state == "online" else 0.0,
            log=board.log,
        )


def _state(death: Death | None, age_s: float | None) -> BoardState:
    if death is not None:
        return "offline" if death.reason == "clean" else "lost"
    return "stale" if age_s is None or age_s > STALE_AFTER_S else "online"


def _keep_pace(board: _Board, telemetry: Telemetry) -> None:
    before = board.paced
    if before is None or before.boot_id != telemetry.boot_id:
        board.paced, board.steps_per_s = telemetry, 0.0
    elif (elapsed_s := telemetry.uptime_s - before.uptime_s) >= _PACE_OVER_S:
        board.steps_per_s = max(0, _env_steps(telemetry) - _env_steps(before)) / elapsed_s
        board.paced = telemetry


def _env_steps(telemetry: Telemetry) -> int:
    return sum(run.env_steps for run in telemetry.runs.values())
