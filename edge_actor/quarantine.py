"""The hashes of policies that have failed on this board: they are never tried again, not after a restart either."""

import time
from typing import Final

from edge_actor.board_files import BoardFiles
from fleet_protocol.clock import utc_timestamp
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.messages import Message

_FILE: Final = "quarantine"
_MOST: Final = 256
"""Then the oldest is forgotten. Who can sign that many bad policies can also sign one more."""
_WRITE_EVERY_S: Final = 60.0
"""A learner that publishes a bad policy every second must not wear out a memory card."""


class Entry(Message, frozen=True, kw_only=True):
    """One policy that must not run."""

    sha256: bytes
    until: float = 0.0
    """UTC seconds; 0 = for ever."""
    boxed_s: float = 0.0
    """For how long it was locked away."""


class Entries(Message, frozen=True, kw_only=True):
    """What the file holds, the oldest first."""

    entries: list[Entry]


class Quarantine:
    """A bounded set of hashes, kept in the board's state folder.

    Args:
        files: Where it survives a restart.
    """

    def __init__(self, files: BoardFiles) -> None:
        self._files = files
        self._entries = {entry.sha256: entry for entry in _read(files)}
        self._is_written = True
        self._write_at = 0.0

    def __contains__(self, sha256: bytes) -> bool:
        entry = self._entries.get(sha256)
        if entry is None or not entry.until:
            return entry is not None
        # A clock that has since gone back would lock it away for longer than was meant: then it is free.
        return 0 < entry.until - utc_timestamp() <= entry.boxed_s

    def add(self, sha256: bytes, *, for_s: float = 0.0) -> None:
        """Lock a policy away, for so many seconds or for ever."""
        self._entries.pop(sha256, None)
        until = utc_timestamp() + for_s if for_s else 0.0
        self._entries[sha256] = Entry(sha256=sha256, until=until, boxed_s=for_s)
        if len(self._entries) > _MOST:
            del self._entries[next(iter(self._entries))]
        self._is_written = False
        self.keep()

    def keep(self, *, now: bool = False) -> None:
        """Write what is new, at once where nothing was written lately."""
        if not self._is_written and (now or time.monotonic() >= self._write_at):
            self._is_written = True
            self._write_at = time.monotonic() + _WRITE_EVERY_S
            self._files.write(_FILE, encode(Entries(entries=list(self._entries.values()))))


def _read(files: BoardFiles) -> list[Entry]:
    content = files.read(_FILE)
    try:
        return decode(content, Entries).entries[-_MOST:] if content is not None else []
    except BadMessage as error:
        files.note_useless(_FILE, error)
        return []
