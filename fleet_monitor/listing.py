"""Read back what the monitor has written: for people and their scripts."""

import difflib
import sqlite3
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from fleet_monitor.history import open_database
from fleet_protocol.clock import utc_timestamp
from fleet_protocol.exit_codes import ExitCode, ProgramError


class BoardRow(Struct, frozen=True, kw_only=True):
    """One board, as last written."""

    board_id: str
    state: str
    age_s: float
    run_id: str
    policy_version: int
    env_steps: int
    produced: int
    dropped: int
    in_outbox: int
    pss_mb: float
    problem: str
    software: str
    runtime: str


class LatencyRow(Struct, frozen=True, kw_only=True):
    """One measure of one board in one interval; the unit is in the measure's name."""

    age_s: float
    measure: str
    count: int
    p50: float
    p95: float
    p99: float


class BoardDetail(Struct, frozen=True, kw_only=True):
    """A board and its newest latencies, newest first."""

    board: BoardRow
    latencies: list[LatencyRow]


def list_boards(path: Path) -> list[BoardRow]:
    """All boards, by id.

    Raises:
        ProgramError: There is no such file, or it is not the monitor's.
    """
    with closing(_open(path)) as database:
        return _boards(database)


def show_board(path: Path, board_id: str, *, intervals: int = 5) -> BoardDetail:
    """One board, with its last intervals of every measure.

    Raises:
        ProgramError: No such file, or no such board.
    """
    with closing(_open(path)) as database:
        boards = {board.board_id: board for board in _boards(database)}
        if board_id not in boards:
            close = difflib.get_close_matches(board_id, boards, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(boards) or 'none yet'}"
            raise ProgramError(ExitCode.USAGE, f"no board {board_id!r} in {path}; {hint}")
        now = utc_timestamp()
        rows = database.execute(
            "SELECT at, measure, count, p50, p95, p99 FROM (SELECT *, row_number() OVER "
            "(PARTITION BY measure ORDER BY at DESC) AS rank FROM latency WHERE board_id = ?) "
            "WHERE rank <= ? ORDER BY measure, at DESC",
            (board_id, intervals),
        )
        latencies = [
            LatencyRow(age_s=now - at, measure=measure, count=count, p50=p50, p95=p95, p99=p99)
            for at, measure, count, p50, p95, p99 in rows
        ]
        return BoardDetail(board=boards[board_id], latencies=latencies)


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ProgramError(
            ExitCode.STATE_UNUSABLE, f"no monitor file {path}: record one with `edgerl monitor --db {path}`"
        )
    return open_database(path)


def _boards(database: sqlite3.Connection) -> list[BoardRow]:
    now = utc_timestamp()
    rows = database.execute(
        "SELECT board_id, state, seen_at, run_id, policy_version, env_steps, produced, dropped, in_outbox, pss_mb, "
        "problem, software, runtime FROM board ORDER BY board_id"
    )
    return [
        BoardRow(
            board_id=row[0],
            state=row[1],
            age_s=now - row[2],
            run_id=row[3],
            policy_version=row[4],
            env_steps=row[5],
            produced=row[6],
            dropped=row[7],
            in_outbox=row[8],
            pss_mb=row[9],
            problem=row[10],
            software=row[11],
            runtime=row[12],
        )
        for row in rows
    ]
