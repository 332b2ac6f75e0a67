"""The disks that a power cut can leave behind, made from a journal of all changes (`faulty_machine.py`).

The rule is POSIX's, and stricter than any file system in use: content is safe once its file was synced, a name
(created, renamed, deleted) once its folder was. Of all that was not synced, each `Cut` keeps another part: for a
program is right only if it does not matter which. A kill alone is another matter: there everything survives.
"""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

CREATE, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MAKE_FOLDER = range(1, 8)
"""The order of faulty_machine.c."""
_HEAD: Final = struct.Struct("=4Iq")
_SECTOR: Final = 512
_VOLATILE: Final = ("-shm",)
"""SQLite's shared memory is never synced, and made anew after a cut."""


class Cut(Enum):
    """What survives of that which was not synced."""

    NOTHING = "nothing"
    NAMES_ONLY = "names without their content"
    CONTENT_ONLY = "content without new names"
    SOME_SECTORS = "some names, and some sectors of what was written"
    KILL = "everything: no power cut at all, but a kill"


_ALL_NAMES: Final = (Cut.NAMES_ONLY, Cut.KILL)
_ALL_CONTENT: Final = (Cut.CONTENT_ONLY, Cut.KILL)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the disk; `at` is an offset or a size in bytes."""

    kind: int
    path: str
    to: str
    at: int
    data: bytes


@dataclass(slots=True)
class _File:
    safe: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    unsynced: list[Change] = field(default_factory=list[Change])


def read_journal(journal: bytes) -> list[Change]:
    """All changes, in order; the last may be half written where the program was killed."""
    changes: list[Change] = []
    at = 0
    while at + _HEAD.size <= len(journal):
        kind, path, to, size, offset = _HEAD.unpack_from(journal, at)
        begin = at + _HEAD.size
        ends = [begin + path, begin + path + to, begin + path + to + size]
        if ends[-1] > len(journal):
            break
        texts = journal[begin : ends[0]].decode(), journal[ends[0] : ends[1]].decode()
        changes.append(Change(kind, *texts, offset, journal[ends[1] : ends[2]]))
        at = ends[-1]
    return changes


class Disk:
    """A disk that loses power: changes are applied, and `leave` writes what one cut leaves of them.

    Args:
        root: The folder whose changes they are.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve())
        self._folders: set[str] = {self._root}
        self._safe_folders: set[str] = {self._root}
        self._names: dict[str, _File] = {}
        self._safe_names: dict[str, _File] = {}
        self._apply: dict[int, Callable[[Change], None]] = {
            CREATE: self._create,
            WRITE: self._write,
            TRUNCATE: self._truncate,
            SYNC: self._sync,
            RENAME: self._rename,
            UNLINK: self._unlink,
            MAKE_FOLDER: lambda change: self._folders.add(change.path),
        }

    def apply(self, change: Change) -> None:
        """Make one change."""
        self._apply[change.kind](change)

    def leave(self, cut: Cut, target: Path, *, seed: int = 0) -> None:
        """Lose power, and write the disk as it is found afterwards into a new folder."""
        rng = random.Random(seed)
        names = dict(self._safe_names)
        if cut in _ALL_NAMES:
            names = dict(self._names)
        elif cut is Cut.SOME_SECTORS:
            for name in sorted(self._names.keys() | self._safe_names.keys()):
                if rng.random() < 0.5:
                    names.pop(name, None)
                    names |= {name: self._names[name]} if name in self._names else {}
        target.mkdir(parents=True)
        for folder in sorted(self._folders if cut in _ALL_NAMES else self._safe_folders):
            (target / folder.removeprefix(self._root).lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name, file in names.items():
            path = target / name.removeprefix(self._root).lstrip("/")
            if path.parent.is_dir() and not name.endswith(_VOLATILE):
                path.write_bytes(_found(file, cut, rng))

    def _create(self, change: Change) -> None:
        self._names[change.path] = _File()

    def _write(self, change: Change) -> None:
        file = self._names.get(change.path)
        if file is not None:  # else it was unlinked while it was open
            _put(file.now, change)
            file.unsynced.append(change)

    def _truncate(self, change: Change) -> None:
        file = self._names.setdefault(change.path, _File())
        _put(file.now, change)
        file.unsynced.append(change)

    def _sync(self, change: Change) -> None:
        file = self._names.get(change.path)
        if file is not None:
            file.safe = bytes(file.now)
            file.unsynced.clear()
            return
        elsewhere = {name: file for name, file in self._safe_names.items() if _parent(name) != change.path}
        here = {name: file for name, file in self._names.items() if _parent(name) == change.path}
        self._safe_names = elsewhere | here
        self._safe_folders |= {folder for folder in self._folders if _parent(folder) == change.path}

    def _rename(self, change: Change) -> None:
        if change.path in self._names:
            self._names[change.to] = self._names.pop(change.path)

    def _unlink(self, change: Change) -> None:
        self._names.pop(change.path, None)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _put(content: bytearray, change: Change) -> None:
    end = change.at + len(change.data)
    if change.kind == TRUNCATE:
        del content[change.at :]
    content.extend(bytes(max(0, end - len(content))))
    content[change.at : end] = change.data


def _found(file: _File, cut: Cut, rng: random.Random) -> bytes:
    if cut in _ALL_CONTENT:
        return bytes(file.now)
    content = bytearray(file.safe)
    if cut is Cut.SOME_SECTORS:
        for change in file.unsynced:
            for part in _sectors(change):
                if rng.random() < 0.5:
                    _put(content, part)
    return bytes(content)


def _sectors(change: Change) -> list[Change]:
    if change.kind == TRUNCATE:
        return [change]
    begins = [0, *range(_SECTOR - change.at % _SECTOR, len(change.data), _SECTOR)]
    ends = [*begins[1:], len(change.data)]
    return [
        Change(WRITE, change.path, "", change.at + begin, change.data[begin:end])
        for begin, end in zip(begins, ends, strict=True)
    ]
