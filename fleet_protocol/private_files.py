"""Writing keys and certificates: whole or not at all, and keys for their owner's eyes only."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read (0600), and that no reader ever sees half."""
    _write(path, content, mode=0o600)


def write_public(path: Path, content: bytes) -> None:
    """Write a file that everybody may read (0644), and that no reader ever sees half."""
    _write(path, content, mode=0o644)


def _write(path: Path, content: bytes, *, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # 0600 from its beginning
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
