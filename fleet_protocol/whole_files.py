"""Files that are replaced wholly or not at all, and survive a power cut once they are written."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600
"""For their owner's eyes only."""
PUBLIC: Final = 0o644


def write_whole(path: Path, content: bytes, *, mode: int = PUBLIC) -> None:
    """Replace a file; no reader ever sees half of it, and nobody can open it before its mode is set.

    One process at a time writes a file: what another one has left half written is deleted.

    Raises:
        OSError: The disk does not take it; the file is as it was.
    """
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except OSError:
        with suppress(OSError):  # half a file would only fill a disk that is full
            draft.unlink()
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing, so that their names survive a power cut too.

    Raises:
        OSError: It cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have a new or renamed entry of a folder survive a power cut.

    Raises:
        OSError: The folder cannot be opened, or the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
