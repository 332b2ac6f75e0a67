"""Read back what the monitor has written: for people and their scripts."""

import difflib
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from fleet_monitor.conditions import conditions
from fleet_monitor.fleet import STALE_AFTER_S
from fleet_monitor.history import file_errors, open_database
from fleet_protocol.clock import utc_timestamp
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Health


class BoardRow(Struct, frozen=True, kw_only=True):
    """One board, as last written."""

    board_id: str
    boot_id: str
    state: str
    age_s: float | None
    """Seconds since it was heard; None = never, only of."""
    run_id: str
    policy_version: int
    env_steps: int
    steps_per_s: float
    produced: int
    dropped: int
    in_outbox: int
    pss_mb: float
    problem: str
    software: str
    runtime: str
    cpu_percent: float | None = None
    cpu_mhz: float | None = None
    temperature_c: float | None = None
    throttled: int | None = None
    """Raspberry Pi's bits, as in `Health`."""
    memory_available_mb: float | None = None
    disk_free_mb: float | None = None
    wifi_dbm: float | None = None
    conditions: list[str] = []
    """What is wrong with the board itself, in words."""

    @property
    def health(self) -> Health:
        """How the board was when it was last heard."""
        return msgspec.convert(self, Health, from_attributes=True)


class HealthRow(Struct, frozen=True, kw_only=True):
    """How one board was at the end of one interval; None for what it cannot tell."""

    age_s: float
    pss_mb: float
    cpu_percent: float | None
    cpu_mhz: float | None
    temperature_c: float | None
    throttled: int | None
    memory_available_mb: float | None
    disk_free_mb: float | None
    wifi_dbm: float | None


class LatencyRow(Struct, frozen=True, kw_only=True):
    """One measure of one board in one interval; the unit is in the measure's name."""

    age_s: float
    measure: str
    count: int
    p50: float
    p95: float
    p99: float
    maximum: float


class BoardDetail(Struct, frozen=True, kw_only=True):
    """A board, and its last latencies and health, newest first."""

    board: BoardRow
    latencies: list[LatencyRow]
    health: list[HealthRow]


def list_boards(path: Path) -> list[BoardRow]:
    """All boards, by id.

    Raises:
        ProgramError: There is no such file, or it is not the monitor's.
    """
    with _reading(path) as database:
        return _boards(database)


def show_board(path: Path, board_id: str, *, intervals: int = 5) -> BoardDetail:
    """One board, with its last intervals of every measure, and its health in them.

    Raises:
        ProgramError: No such file, or no such board.
    """
    with _reading(path) as database:
        boards = {board.board_id: board for board in _boards(database)}
        if board_id not in boards:
            close = difflib.get_close_matches(board_id, boards, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(boards) or 'none yet'}"
            raise ProgramError(ExitCode.USAGE, f"no board {board_id!r} in {path}; {hint}")
        return BoardDetail(
            board=boards[board_id],
            latencies=_latencies(database, board_id, intervals),
            health=_healths(database, board_id, intervals),
        )


@contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection]:
    if not path.is_file():
        raise ProgramError(
            ExitCode.STATE_UNUSABLE, f"no monitor file {path}: record one with `edgerl monitor --db {path}`"
        )
    with file_errors(path), closing(open_database(path, read_only=True)) as database:
        database.row_factory = sqlite3.Row
        yield database


def _boards(database: sqlite3.Connection) -> list[BoardRow]:
    rows = database.execute("SELECT *, ? - seen_at AS age_s FROM board ORDER BY board_id", (utc_timestamp(),))
    boards = [msgspec.convert(dict(row), BoardRow) for row in rows]
    return [
        msgspec.structs.replace(
            board, state="stale" if _is_silent(board) else board.state, conditions=conditions(board.health)
        )
        for board in boards
    ]


def _is_silent(board: BoardRow) -> bool:
    # Where no monitor runs any more, the last word may be long ago; one from the future is of a clock that was wrong.
    return board.state == "online" and not (board.age_s is not None and abs(board.age_s) <= STALE_AFTER_S)


def _latencies(database: sqlite3.Connection, board_id: str, intervals: int) -> list[LatencyRow]:
    rows = database.execute(
        "SELECT *, ? - at AS age_s FROM (SELECT *, row_number() OVER (PARTITION BY measure ORDER BY at DESC) AS rank "
        "FROM latency WHERE board_id = ?) WHERE rank <= ? ORDER BY measure, at DESC",
        (utc_timestamp(), board_id, intervals),
    )
    return [msgspec.convert(dict(row), LatencyRow) for row in rows]


def _healths(database: sqlite3.Connection, board_id: str, intervals: int) -> list[HealthRow]:
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'health'").fetchone() is None:
        return []  # written before boards told it, and by nobody since
    rows = database.execute(
        "SELECT *, ? - at AS age_s FROM health WHERE board_id = ? ORDER BY at DESC LIMIT ?",
        (utc_timestamp(), board_id, intervals),
    )
    return [msgspec.convert(dict(row), HealthRow) for row in rows]
