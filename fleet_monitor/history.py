"""What the monitor remembers: SQLite, one writer, one transaction a flush."""

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fleet_monitor.fleet import BoardView, Interval
from fleet_protocol.clock import utc_timestamp
from fleet_protocol.exit_codes import ExitCode, ProgramError

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE latency (
    at REAL NOT NULL, board_id TEXT NOT NULL, boot_id TEXT NOT NULL, measure TEXT NOT NULL,
    count INTEGER NOT NULL, p50 REAL NOT NULL, p95 REAL NOT NULL, p99 REAL NOT NULL
);
CREATE INDEX latency_by_board ON latency (board_id, measure, at);
CREATE TABLE board (
    board_id TEXT PRIMARY KEY, seen_at REAL NOT NULL, state TEXT NOT NULL, problem TEXT NOT NULL, run_id TEXT NOT NULL,
    policy_version INTEGER NOT NULL, env_steps INTEGER NOT NULL, produced INTEGER NOT NULL, dropped INTEGER NOT NULL,
    in_outbox INTEGER NOT NULL, pss_mb REAL NOT NULL, software TEXT NOT NULL, runtime TEXT NOT NULL
);
"""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the monitor's file, made if missing.

    Raises:
        ProgramError: It is no database, of a newer schema, or cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_SCHEMA + f"PRAGMA user_version={SCHEMA_VERSION};")
        database.execute("PRAGMA synchronous=NORMAL")
    except (sqlite3.Error, OSError) as error:
        raise ProgramError(ExitCode.STATE_UNUSABLE, f"{path} cannot be used as the monitor's file: {error}") from error
    if version > SCHEMA_VERSION:
        database.close()
        raise ProgramError(
            ExitCode.STATE_UNUSABLE,
            f"{path} was written by a newer EdgeRL (schema {version}, known is {SCHEMA_VERSION}); update this one",
        )
    return database


class History:
    """Writes boards and their latencies.

    Args:
        path: The SQLite file.

    Raises:
        ProgramError: It cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._database = open_database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def write(self, boards: list[BoardView], intervals: list[Interval]) -> None:
        """Write the boards as they are, and the latencies of an interval, in one transaction."""
        now = utc_timestamp()
        with self._database:
            self._database.executemany(
                f"INSERT OR REPLACE INTO board VALUES ({','.join('?' * 13)})",  # noqa: S608 - only question marks
                [_board_row(board, now) for board in boards],
            )
            self._database.executemany(
                "INSERT INTO latency VALUES (?,?,?,?,?,?,?,?)",
                [
                    (
                        *(now, interval.board_id, interval.boot_id, measure, sketch.count),
                        *(sketch.quantile(share) for share in (0.5, 0.95, 0.99)),
                    )
                    for interval in intervals
                    for measure, sketch in interval.sketches.items()
                    if sketch.count
                ],
            )


def _board_row(board: BoardView, now: float) -> tuple[object, ...]:
    telemetry, birth = board.telemetry, board.birth
    runs = list(telemetry.runs.values()) if telemetry else []
    return (
        board.board_id,
        now - (board.age_s or 0.0),
        board.state,
        board.problem.sentence if board.problem else "",
        telemetry.run_id if telemetry else "",
        telemetry.policy_version if telemetry else 0,
        sum(run.env_steps for run in runs),
        sum(run.produced for run in runs),
        sum(sum(run.dropped.values()) for run in runs),
        sum(run.in_outbox for run in runs),
        telemetry.health.pss_mb if telemetry else 0.0,
        birth.software if birth else "",
        birth.runtime if birth else "",
    )
