"""Writing keys and certificates into folders that may not be there yet."""

from pathlib import Path

from fleet_protocol.whole_files import PRIVATE, write_whole


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content, mode=PRIVATE)


def write_public(path: Path, content: bytes) -> None:
    """Write a file that everybody may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
