"""An append-only log of what was done to a fleet, by whom, and of what was refused: SQLite with a hash chain.

Each row carries the SHA-256 of the row before it and its own, and the file refuses to change or delete rows. That finds
whoever edits the file; who can write it and is thorough can forge a whole new chain, unless somebody has noted the hash
of an earlier last row (`AuditLog.head`) elsewhere.
"""

import hashlib
import json
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from fleet_protocol.exit_codes import ExitCode, ProgramError

_APPLICATION_ID: Final = 1_164_207_937
"""`EdgA` in ASCII: tells our file from every other program's."""
_LOCK_WAIT_S: Final = 30.0
_NOTHING_BEFORE: Final = "0" * 64
# AUTOINCREMENT keeps the highest id that was ever given, so that rows missing at the end are missed too. The third
# trigger is for INSERT OR REPLACE, which deletes without calling itself a deletion.
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, details TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON entry
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_deletion BEFORE DELETE ON entry
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_replacement BEFORE INSERT ON entry WHEN EXISTS (SELECT 1 FROM entry WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
PRAGMA application_id=1164207937;
COMMIT;
"""
_PARTS: Final = frozenset({"entry", "no_change", "no_deletion", "no_replacement"})
_LAST: Final = "SELECT id, at, kind, details, previous, hash FROM entry ORDER BY id DESC LIMIT 1"
_ALL: Final = "SELECT id, at, kind, details, previous, hash FROM entry ORDER BY id"
_HIGHEST_COUNTER: Final = (
    "SELECT MAX(json_extract(details, '$.counter')) FROM entry WHERE kind = ?"
    " AND json_extract(details, '$.issuer') = ? AND json_extract(details, '$.board') = ?"
)

Detail = str | int | float | bool | None


class AuditUnwritable(ProgramError):
    """The disk does not take the entry now; the log is as it was."""


class AuditEntry(NamedTuple):
    """One row, as it is stored.

    Attributes:
        id: 1, 2, 3 and so on.
        at: When, in UTC, by this machine's clock.
        kind: What was done: `enrolled`, `refused`, `command`, ...
        details: A JSON object, with sorted keys.
        previous: SHA-256 of the row before, in hex.
        hash: SHA-256 of all that stands before it in this row.
    """

    id: int
    at: str
    kind: str
    details: str
    previous: str
    hash: str

    def true_hash(self) -> str:
        """What `hash` must be."""
        return _hash_of(self.id, self.at, self.kind, self.details, self.previous)


class AuditLog:
    """One audit file; several processes may append to it at a time.

    Args:
        path: The file; it is made, for its owner's eyes only, with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, kind: str, **details: Detail) -> None:
        """Add an entry; it is on disk when this returns.

        Args:
            kind: What was done.
            details: To whom, by whom, and so on. No secrets: whoever may read the file reads them.

        Raises:
            AuditUnwritable: The disk does not take it.
            ProgramError: The file is none of ours.
        """
        with self._opened() as database:
            self._add(database, kind, details)

    def append_numbered(self, kind: str, *, issuer: str, board: str, at_least: int, **details: Detail) -> int:
        """Add an entry whose `counter` is higher than in all before of this kind, issuer and board; returns it.

        Args:
            kind: What was done.
            issuer: By whom.
            board: To whom.
            at_least: The counter begins here.
            details: What else.

        Raises:
            AuditUnwritable: The disk does not take it.
            ProgramError: The file is none of ours.
        """
        with self._opened() as database:
            (highest,) = database.execute(_HIGHEST_COUNTER, (kind, issuer, board)).fetchone()
            counter = max(at_least, (highest or 0) + 1)
            self._add(database, kind, {**details, "issuer": issuer, "board": board, "counter": counter})
        return counter

    def entries(self) -> list[AuditEntry]:
        """All rows, the oldest first.

        Raises:
            ProgramError: There is no such file, or it is none of ours.
        """
        with self._read() as database:
            return [AuditEntry(*row) for row in database.execute(_ALL)]

    def verify(self, *, head: str = "") -> list[str]:
        """What is wrong with the chain, a sentence for each place; empty where all is well.

        Args:
            head: The hash of a row that was the last one once, noted elsewhere; it must still be here.

        Raises:
            ProgramError: There is no such file, or it is none of ours.
        """
        with self._read() as database:
            entries = [AuditEntry(*row) for row in database.execute(_ALL)]
            (given,) = database.execute("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'entry'").fetchone()
        wrong: list[str] = []
        before, expected_id = _NOTHING_BEFORE, 1
        for entry in entries:
            wrong += _faults(entry, before=before, expected_id=expected_id)
            before, expected_id = entry.hash, entry.id + 1
        if (given or 0) >= expected_id:
            wrong.append(f"entries {expected_id} to {given} at the end are missing")
        if head and head not in {entry.hash for entry in entries}:
            wrong.append(f"no entry has the hash {head[:64]}, which was noted: the log was made anew, or cut")
        return wrong

    def _add(self, database: sqlite3.Connection, kind: str, details: Mapping[str, Detail]) -> None:
        last = database.execute(_LAST).fetchone()
        last = AuditEntry(*last) if last else None
        # The id that SQLite will give it: one above the highest that there ever was.
        (given,) = database.execute("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'entry'").fetchone()
        text = json.dumps(details, sort_keys=True, separators=(",", ":"))
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = ((given or 0) + 1, at, kind, text, last.hash if last else _NOTHING_BEFORE)
        database.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", (*row, _hash_of(*row)))

    @contextmanager
    def _opened(self) -> Generator[sqlite3.Connection]:
        """One transaction that nobody else writes beside."""
        with self._told_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            with closing(self._connect("rw")) as database:
                if not _is_ours(database):
                    database.executescript(_SCHEMA)
                database.execute("BEGIN IMMEDIATE")
                with database:
                    yield database

    @contextmanager
    def _read(self) -> Generator[sqlite3.Connection]:
        with self._told_errors(), closing(self._connect("ro")) as database:
            _is_ours(database)
            yield database

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        database = sqlite3.connect(uri, uri=True, timeout=_LOCK_WAIT_S, isolation_level=None)
        database.execute("PRAGMA synchronous=FULL")
        return database

    @contextmanager
    def _told_errors(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            kind = AuditUnwritable if isinstance(error, OSError | sqlite3.OperationalError) else ProgramError
            sentence = f"{self._path} cannot be used as an audit log: {error}"
            raise kind(ExitCode.STATE_UNUSABLE, sentence) from error


def _is_ours(database: sqlite3.Connection) -> bool:
    """Whether it has our table and all that protects it; not while it is empty, or where a trigger was taken away."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if application != _APPLICATION_ID and names:
        raise sqlite3.DatabaseError("it is another program's file")
    return names >= _PARTS


def _hash_of(entry_id: int, at: str, kind: str, details: str, previous: str) -> str:
    return hashlib.sha256(json.dumps([entry_id, at, kind, details, previous]).encode()).hexdigest()


def _faults(entry: AuditEntry, *, before: str, expected_id: int) -> list[str]:
    if entry.id != expected_id:
        return [f"entries {expected_id} to {entry.id - 1} are missing"]
    if entry.hash != entry.true_hash():
        return [f"entry {entry.id} was changed"]
    if entry.previous != before:
        return [f"entry {entry.id} does not follow the one before it: one of both was replaced"]
    return []
