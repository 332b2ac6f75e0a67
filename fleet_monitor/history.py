"""What the monitor remembers: SQLite, one writer, one transaction a flush."""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from fleet_monitor.fleet import BoardView
from fleet_monitor.intervals import Interval
from fleet_protocol.clock import utc_timestamp
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Health, Telemetry

SCHEMA_VERSION: Final = 2
_APPLICATION_ID: Final = 0x4564_6752
"""`EdgR`: tells our file from every other program's."""
_BUSY_WAIT_S: Final = 5.0
_VITALS: Final = tuple(
    "cpu_percent cpu_mhz temperature_c throttled memory_available_mb disk_free_mb wifi_dbm".split()  # noqa: SIM905
)
"""Fields of `Health` that a board may not know: columns of `board` and `health`, of any number type, or NULL."""
_HEALTH_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS health (
    at REAL NOT NULL, board_id TEXT NOT NULL, boot_id TEXT NOT NULL, pss_mb REAL NOT NULL, {", ".join(_VITALS)}
);
CREATE INDEX IF NOT EXISTS health_by_board ON health (board_id, at);
CREATE INDEX IF NOT EXISTS health_by_time ON health (at);
PRAGMA user_version={SCHEMA_VERSION};
"""
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS latency (
    at REAL NOT NULL, board_id TEXT NOT NULL, boot_id TEXT NOT NULL, measure TEXT NOT NULL,
    count INTEGER NOT NULL, p50 REAL NOT NULL, p95 REAL NOT NULL, p99 REAL NOT NULL, maximum REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS latency_by_board ON latency (board_id, measure, at);
CREATE INDEX IF NOT EXISTS latency_by_time ON latency (at);
CREATE TABLE IF NOT EXISTS board (
    board_id TEXT PRIMARY KEY, boot_id TEXT NOT NULL, seen_at REAL, state TEXT NOT NULL, problem TEXT NOT NULL,
    run_id TEXT NOT NULL, policy_version INTEGER NOT NULL, env_steps INTEGER NOT NULL, steps_per_s REAL NOT NULL,
    produced INTEGER NOT NULL, dropped INTEGER NOT NULL, in_outbox INTEGER NOT NULL, pss_mb REAL NOT NULL,
    software TEXT NOT NULL, runtime TEXT NOT NULL, {", ".join(_VITALS)}
);
PRAGMA application_id={_APPLICATION_ID};
{_HEALTH_TABLE}
COMMIT;
"""
_FROM_SCHEMA_1: Final = f"""
BEGIN IMMEDIATE;
{"".join(f"ALTER TABLE board ADD COLUMN {name};" for name in _VITALS)}
{_HEALTH_TABLE}
COMMIT;
"""
_PUT_BOARD: Final = f"""
INSERT OR REPLACE INTO board VALUES (
    :board_id, :boot_id, :seen_at, :state, :problem, :run_id, :policy_version, :env_steps, :steps_per_s,
    :produced, :dropped, :in_outbox, :pss_mb, :software, :runtime, {", ".join(f":{name}" for name in _VITALS)}
)
"""  # noqa: S608 - the names are our own
_PUT_HEALTH: Final = f"""
INSERT INTO health VALUES (:at, :board_id, :boot_id, :pss_mb, {", ".join(f":{name}" for name in _VITALS)})
"""  # noqa: S608 - the same
_MAY_PASS: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY}
)
"""What a disk that is full, fails or is mounted anew makes of a write."""
_NO_TELEMETRY: Final = Telemetry(board_id="", boot_id="", uptime_s=0.0)


class NotWritten(ProgramError):
    """The disk does not take it now; it may later, and what was written before is whole."""


@contextmanager
def file_errors(path: Path) -> Generator[None]:
    """Turn what is wrong with the file into a sentence.

    Raises:
        NotWritten: The disk is full or fails.
        ProgramError: SQLite or the system refused something else.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the rest says more exactly where
        refusal = NotWritten if code in _MAY_PASS else ProgramError
        raise refusal(
            ExitCode.STATE_UNUSABLE,
            f"{path} cannot be used as the monitor's file ({error}); choose another with --db",
        ) from error


def open_database(path: Path, *, read_only: bool = False, upgrade: bool = True) -> sqlite3.Connection:
    """Open the monitor's file; for writing, it is made if missing, and brought to our schema unless told not to.

    Raises:
        ProgramError: It is no database, another program's, of another schema, or cannot be opened.
    """
    with file_errors(path):
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
            uri=True,
            timeout=_BUSY_WAIT_S,
            check_same_thread=False,
        )
        try:
            if not read_only and not _is_used(database):
                database.execute("PRAGMA journal_mode=WAL")
                database.executescript(_SCHEMA)
            if _require_ours(database, path) < SCHEMA_VERSION and upgrade and not read_only:
                database.executescript(_FROM_SCHEMA_1)
            database.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            database.close()
            raise
        return database


class History:
    """Writes boards and their latencies; a context manager.

    Args:
        path: The SQLite file.
        keep_hours: Latencies and health older than this are deleted.

    Raises:
        ProgramError: It cannot be used.
    """

    def __init__(self, path: Path, *, keep_hours: float = 48.0) -> None:
        self._path = path
        self._keep_s = keep_hours * 3600
        self._database = open_database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def write(self, boards: list[BoardView], intervals: list[Interval]) -> None:
        """Write the boards as they are, and the latencies and health of an interval, in one transaction.

        Raises:
            NotWritten: The disk does not take it now.
            ProgramError: The file cannot be written.
        """
        now = utc_timestamp()
        with file_errors(self._path), self._database:
            self._database.executemany(_PUT_BOARD, [_board_row(board, now) for board in boards])
            self._database.executemany(
                "INSERT INTO latency VALUES (?,?,?,?,?,?,?,?,?)",
                [row for interval in intervals for row in _latency_rows(interval, now)],
            )
            self._database.executemany(_PUT_HEALTH, [_health_row(interval, now) for interval in intervals])
            self._database.execute("DELETE FROM latency WHERE at < ?", (now - self._keep_s,))
            self._database.execute("DELETE FROM health WHERE at < ?", (now - self._keep_s,))


def _is_used(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None


def _require_ours(database: sqlite3.Connection, path: Path) -> int:
    """The file's schema."""
    application_id: int = database.execute("PRAGMA application_id").fetchone()[0]
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if application_id != _APPLICATION_ID:
        raise ProgramError(
            ExitCode.STATE_UNUSABLE, f"{path} was not written by `edgerl monitor`; choose another file with --db"
        )
    if version > SCHEMA_VERSION:
        raise ProgramError(
            ExitCode.STATE_UNUSABLE,
            f"{path} was written by a newer EdgeRL (schema {version}, known is {SCHEMA_VERSION}); update this one",
        )
    return version


def _latency_rows(interval: Interval, now: float) -> Iterator[tuple[object, ...]]:
    for measure, sketch in interval.sketches.items():
        if sketch.count:
            percentiles = (sketch.quantile(share) for share in (0.5, 0.95, 0.99, 1.0))
            yield (now, interval.board_id, interval.boot_id, measure, sketch.count, *percentiles)


def _health_row(interval: Interval, now: float) -> dict[str, object]:
    told = {"at": now, "board_id": interval.board_id, "boot_id": interval.boot_id, "pss_mb": interval.health.pss_mb}
    return told | _vitals(interval.health)


def _vitals(health: Health) -> dict[str, object]:
    return {name: getattr(health, name) for name in _VITALS}


def _board_row(board: BoardView, now: float) -> dict[str, object]:
    telemetry, birth = board.telemetry or _NO_TELEMETRY, board.birth
    runs = telemetry.runs.values()
    return {
        "board_id": board.board_id,
        "boot_id": (birth or telemetry).boot_id,
        "seen_at": None if board.age_s is None else now - board.age_s,
        "state": board.state,
        "problem": board.problem.sentence if board.problem else "",
        "run_id": telemetry.run_id,
        "policy_version": telemetry.policy_version,
        "env_steps": sum(run.env_steps for run in runs),
        "steps_per_s": board.steps_per_s,
        "produced": sum(run.produced for run in runs),
        "dropped": sum(sum(run.dropped.values()) for run in runs),
        "in_outbox": sum(run.in_outbox for run in runs),
        "pss_mb": telemetry.health.pss_mb,
        "software": birth.software if birth else "",
        "runtime": birth.runtime if birth else "",
        **_vitals(telemetry.health),
    }
