"""The small files in a board's state folder: replaced wholly or not at all, and never a reason to stop acting."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fleet_protocol.whole_files import make_folder, sync_folder, write_whole

Count = Callable[[str, str], None]
"""Takes a counter's name and a sentence."""
_RETRY_S: Final = 10.0


class BoardFiles:
    """Reads and writes whole files; what fails is counted, and as if there were no folder.

    Args:
        folder: The board's own state folder, made when it is needed; None keeps nothing.
        count: Told of `state_unreadable` and `state_unwritable`.
    """

    def __init__(self, folder: Path | None, *, count: Count) -> None:
        self._folder = folder
        self._count = count
        self._owed: dict[str, bytes] = {}
        self._retry_at = 0.0

    @property
    def exist(self) -> bool:
        """Whether anything is kept at all."""
        return self._folder is not None

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        if self._folder is None:
            return None
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._count("state_unreadable", f"cannot read {self._folder / name}: {error.strerror}")
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file; when this returns without a count, it survives a power cut. Else `retry` will do it."""
        if self._folder is None:
            return
        path = self._folder / name
        try:
            make_folder(self._folder)
            write_whole(path, content)
            self._owed.pop(name, None)
        except OSError as error:
            self._owed[name] = content
            self._retry_at = time.monotonic() + _RETRY_S
            self._count("state_unwritable", f"cannot write {path}: {error.strerror}; the board acts on without it")

    def retry(self, *, now: bool = False) -> None:
        """Write what the disk has refused, every ten seconds, or at once."""
        if self._owed and (now or time.monotonic() >= self._retry_at):
            for name, content in list(self._owed.items()):
                self.write(name, content)

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name, in place of what had it; nothing happens where it is not there."""
        if self._folder is None:
            return
        try:
            (self._folder / name).replace(self._folder / new_name)
            sync_folder(self._folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self._count("state_unwritable", f"cannot rename {self._folder / name}: {error.strerror}")

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self._folder is None:
            return
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            self._count("state_unwritable", f"cannot delete {self._folder / name}: {error.strerror}")

    def note_useless(self, name: str, error: Exception) -> None:
        """Count a file that was read, and is not what it should be."""
        self._count("state_unreadable", f"{name} in the state folder is of no use: {error}")
