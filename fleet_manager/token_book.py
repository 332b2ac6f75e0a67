"""The tokens that were given out: only their hashes, each for one board, once, until it expires. SQLite."""

import hmac
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from fleet_protocol.clock import utc_timestamp
from fleet_protocol.enrolment import EnrolmentToken, hash_secret
from fleet_protocol.exit_codes import ExitCode, ProgramError

_LOCK_WAIT_S: Final = 30.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS token (
    id INTEGER PRIMARY KEY, fleet TEXT NOT NULL, board_id TEXT NOT NULL, secret_hash BLOB NOT NULL,
    expires_at REAL NOT NULL, used_at REAL
);
CREATE INDEX IF NOT EXISTS token_by_board ON token (board_id);
"""
_OF_BOARD: Final = "SELECT id, fleet, secret_hash, expires_at, used_at FROM token WHERE board_id = ?"


class Refused(Exception):
    """A wish that is not granted; says why to whoever had it. `reason` is the name under which it is audited."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class TokenBook:
    """The tokens of a fleet.

    Args:
        path: The SQLite file; it is made when it is needed.
        fleet: The fleet's name: no token of another counts.
    """

    def __init__(self, path: Path, *, fleet: str) -> None:
        self._path = path
        self._fleet = fleet

    def add(self, token: EnrolmentToken, *, valid_s: float) -> None:
        """Note a token that is to count for so many seconds; earlier ones of its board count no more."""
        row = (self._fleet, token.board_id, token.secret_hash, utc_timestamp() + valid_s)
        with self._opened() as database:
            self._void(database, token.board_id)
            database.execute("INSERT INTO token (fleet, board_id, secret_hash, expires_at) VALUES (?, ?, ?, ?)", row)

    def void(self, board_id: str) -> None:
        """Let no token of a board count that was not used."""
        with self._opened() as database:
            self._void(database, board_id)

    def claim(self, board_id: str, secret: str) -> None:
        """Use a token up; of all that try at a time, one succeeds.

        Raises:
            Refused: There is none such, or it is used or expired.
        """
        given = hash_secret(secret)
        with self._opened() as database:
            rows = database.execute(_OF_BOARD, (board_id,)).fetchall()
            # All are compared, and each in constant time: the clock tells nothing about a hash.
            found = [row for row in rows if hmac.compare_digest(row[2], given)]
            if not found or found[0][1] != self._fleet:
                raise Refused("wrong_token", "there is no such token for this board of this fleet")
            token_id, _, _, expires_at, used_at = found[0]
            if used_at is not None:
                raise Refused("used_token", "this token was used, or replaced by a newer one: ask for another")
            if not utc_timestamp() < expires_at:
                raise Refused("expired_token", "this token has expired: ask for another")
            database.execute("UPDATE token SET used_at = ? WHERE id = ?", (utc_timestamp(), token_id))

    @staticmethod
    def _void(database: sqlite3.Connection, board_id: str) -> None:
        query = "UPDATE token SET used_at = ? WHERE board_id = ? AND used_at IS NULL"
        database.execute(query, (utc_timestamp(), board_id))

    @contextmanager
    def _opened(self) -> Generator[sqlite3.Connection]:
        """One transaction that nobody else reads or writes beside."""
        try:
            self._path.touch(mode=0o600)
            with closing(sqlite3.connect(self._path, timeout=_LOCK_WAIT_S, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous=FULL")
                database.executescript(_SCHEMA)
                database.execute("BEGIN IMMEDIATE")
                with database:
                    yield database
        except (sqlite3.Error, OSError) as error:
            raise ProgramError(ExitCode.STATE_UNUSABLE, f"{self._path}: the tokens cannot be used ({error})") from error
