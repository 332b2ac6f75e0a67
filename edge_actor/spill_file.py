"""The file that keeps an outbox over a kill or a power cut: SQLite, one transaction a write.

WAL with synchronous=FULL: a commit is one append to the log and one fsync of it, so what `save` has returned from
survives a power cut. (NORMAL syncs only at checkpoints: a power cut could take hours of commits along.) The file exists
only while there is something to keep. SQLite sees a page that makes no sense, but not a number that has changed, so
every record carries a CRC.
"""

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_actor.outbox_account import RunAccount
from edge_actor.outbox_entry import OutboxEntry, WindowKey
from edge_actor.spill_records import account_records, read_account, read_window, window_record
from fleet_protocol.commands import EarlierBoot
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.sequences import SequenceSet
from fleet_protocol.whole_files import make_folder

_log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
"""A file of a later one is left as it is, whatever is in it; 0 is the same, before it was numbered."""
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS window (
    id INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, seq INTEGER NOT NULL, run_id TEXT NOT NULL,
    kernel_boot_id TEXT NOT NULL, monotonic_s REAL NOT NULL, utc_s REAL NOT NULL, body BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS account (
    boot_id TEXT NOT NULL, run_id TEXT NOT NULL, account BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (boot_id, run_id)
) WITHOUT ROWID;
PRAGMA user_version={SCHEMA_VERSION};
"""
_WINDOW_BY_ID: Final = (
    "SELECT boot_id, seq, run_id, kernel_boot_id, monotonic_s, utc_s, body, crc FROM window WHERE id = ?"
)
_LOCK_WAIT_S: Final = 3.0
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNREADABLE: Final = _DAMAGE | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}
"""While reading also a short file and a missing table."""


class SpillFailed(Exception):
    """The file could not be written; nothing of this write is on disk, and the windows are still in memory."""


@dataclass(slots=True)
class Kept:
    """What a file held.

    Attributes:
        entries: Windows, the oldest first.
        accounts: By (boot id, run id).
        corrupt: Records that could not be read; at least so many.
        was_damaged: The file itself was set aside, so these entries are on disk no more.
    """

    entries: list[OutboxEntry] = field(default_factory=list[OutboxEntry])
    accounts: dict[tuple[str, str], RunAccount] = field(default_factory=dict[tuple[str, str], RunAccount])
    corrupt: int = 0
    was_damaged: bool = False


class SpillFile:
    """One board's file. One process at a time; it is locked while it is open.

    Args:
        path: The file; it and its folder are made when there is something to keep.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._next_row = 1

    def load(self) -> Kept:
        """Read all that can be read. A file that is damaged is set aside as `<name>.corrupt`.

        Raises:
            ProgramError: Another agent has the file open.
            SpillFailed: The file cannot be opened at all, or is of a newer schema.
        """
        if not self._path.exists():
            return Kept()
        kept = Kept()
        try:
            self._open()
            self._read_into(kept)
        except sqlite3.Error as error:
            if _code(error) == sqlite3.SQLITE_BUSY:
                raise ProgramError(
                    ExitCode.STATE_UNUSABLE,
                    f"another agent keeps its outbox in {self._path}; give each board its own --board or --state",
                ) from error
            if _code(error) not in _UNREADABLE:
                raise SpillFailed(f"cannot read {self._path}: {error}") from error
            _log.warning("%s is damaged: %s", self._path, error)
            kept.corrupt += 1
            kept.was_damaged = True
        if kept.was_damaged:
            self._set_aside()
            for entry in kept.entries:
                entry.row = 0
        return kept

    def save(
        self, entries: Iterable[OutboxEntry], gone: Iterable[int], accounts: Mapping[tuple[str, str], EarlierBoot]
    ) -> dict[WindowKey, int]:
        """Add windows, delete rows, and replace all accounts: all of it or nothing, and on the disk when it returns.

        Returns:
            The rows of the windows.

        Raises:
            SpillFailed: Says why. If the file itself was found damaged it has been set aside (`is_open` is False).
        """
        entries = list(entries)
        try:
            connection = self._connection or self._open_to_write()
            rows = {entry.key: row for row, entry in enumerate(entries, self._next_row)}
            with connection:
                connection.executemany("DELETE FROM window WHERE id = ?", ((row,) for row in gone))
                connection.executemany(
                    "INSERT INTO window VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    ((rows[entry.key], *window_record(entry)) for entry in entries),
                )
                connection.execute("DELETE FROM account")
                connection.executemany("INSERT INTO account VALUES (?, ?, ?, ?)", account_records(accounts))
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and _code(error) in _DAMAGE:
                self._set_aside()
            raise SpillFailed(f"cannot write {self._path}: {error}") from error
        self._next_row += len(rows)
        return rows

    @property
    def is_open(self) -> bool:
        """The file is there, and ours."""
        return self._connection is not None

    def remove(self) -> None:
        """There is nothing to keep: delete the file, if it is ours."""
        if self._connection is None:
            return
        self.close()
        for file in self._files():
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; what was saved stays."""
        if self._connection is not None:
            with suppress(sqlite3.Error):  # closing folds the log into the file; if it cannot, the next start does
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        make_folder(self._path.parent)
        connection = sqlite3.connect(self._path, timeout=_LOCK_WAIT_S)
        try:
            connection.text_factory = _lenient_text
            # SQLite then reads also a file whose end is missing, page by page, instead of nothing of it.
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._require_known(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(_SCHEMA)
        except (sqlite3.Error, SpillFailed):
            connection.close()
            raise
        self._connection = connection
        return connection

    def _require_known(self, connection: sqlite3.Connection) -> None:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SpillFailed(
                f"{self._path} was written by a newer EdgeRL (schema {version}, known is {SCHEMA_VERSION}), and is "
                "left as it is; update this one"
            )

    def _open_to_write(self) -> sqlite3.Connection:
        connection = self._open()
        self._next_row = 1 + (connection.execute("SELECT max(id) FROM window").fetchone()[0] or 0)
        return connection

    def _read_into(self, kept: Kept) -> None:
        readable: dict[tuple[str, str], SequenceSet] = {}
        rows = self._rows(kept)
        self._next_row = 1 + max(rows, default=0)
        for row in rows:
            entry = self._read_window(row, kept)
            if entry is not None:
                kept.entries.append(entry)
                readable.setdefault((entry.boot_id, entry.run_id), SequenceSet()).add(entry.seq)
        saved = self._read_accounts(kept)
        nothing = SequenceSet()
        for boot_id, run_id in saved.keys() | readable.keys():
            rest = saved.get((boot_id, run_id)) or EarlierBoot(produced=[], outbox=[], dropped={})
            account = RunAccount.from_disk(rest, readable.get((boot_id, run_id), nothing))
            if account.held or account.has_drops:
                kept.accounts[boot_id, run_id] = account

    def _rows(self, kept: Kept) -> list[int]:
        first = self._walk("SELECT id FROM window ORDER BY id", kept)
        if not kept.was_damaged:
            return first
        # A damaged page ends a walk: walk from the other end too, and knock at every door between.
        last = self._walk("SELECT id FROM window ORDER BY id DESC", kept)
        between = range(max(first, default=0) + 1, min(last, default=0))
        return sorted({*first, *between, *last})

    def _walk(self, query: str, kept: Kept) -> list[int]:
        rows: list[int] = []
        try:
            for (row,) in self._reading().execute(query):
                rows.append(row)
        except sqlite3.Error as error:
            _require_unreadable(error)
            kept.was_damaged = True
        return rows

    def _read_window(self, row: int, kept: Kept) -> OutboxEntry | None:
        try:
            record = self._reading().execute(_WINDOW_BY_ID, (row,)).fetchone()
        except sqlite3.Error as error:
            _require_unreadable(error)
            kept.was_damaged = True
            kept.corrupt += 1
            return None
        entry = read_window(row, record) if record is not None else None
        kept.corrupt += record is not None and entry is None
        return entry

    def _read_accounts(self, kept: Kept) -> dict[tuple[str, str], EarlierBoot]:
        accounts: dict[tuple[str, str], EarlierBoot] = {}
        try:
            for record in self._reading().execute("SELECT * FROM account"):
                rest = read_account(record)
                if rest is not None:
                    accounts[record[0], record[1]] = rest
                kept.corrupt += rest is None
        except sqlite3.Error as error:
            _require_unreadable(error)
            kept.was_damaged = True
            kept.corrupt += 1
        return accounts

    def _reading(self) -> sqlite3.Connection:
        assert self._connection is not None  # noqa: S101 - load() has opened it
        return self._connection

    def _set_aside(self) -> None:
        self.close()
        self._next_row = 1
        database, *logs = self._files()
        try:
            database.replace(database.with_name(f"{database.name}.corrupt"))
            for log in logs:
                log.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("cannot set %s aside: %s", database, error)

    def _files(self) -> Iterator[Path]:
        return (self._path.with_name(f"{self._path.name}{suffix}") for suffix in ("", "-wal", "-shm", "-journal"))


def _code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF  # the rest says more exactly where


def _require_unreadable(error: sqlite3.Error) -> None:
    if _code(error) not in _UNREADABLE:
        raise error


def _lenient_text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")  # the CRC finds what is wrong with it
