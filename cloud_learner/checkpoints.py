"""What survives the learner's process: weights, marks of finished windows, and the versions that were given away."""

import os
from pathlib import Path
from typing import Any, Final

import torch

from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.whole_files import make_folder, sync_folder

_VERSION_BLOCK: Final = 1000


class StateFolder:
    """The learner's folder: `checkpoint.pt` and `versions`.

    Args:
        path: Made if missing.

    Raises:
        ProgramError: It cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self._checkpoint = path / "checkpoint.pt"
        self._versions = path / "versions"
        self._path = path
        try:
            make_folder(path)
            _write_durably(path / ".writable", b"")
        except OSError as error:
            raise ProgramError(
                ExitCode.STATE_UNUSABLE,
                f"cannot write to the state folder {path}: {error.strerror}; choose another --state",
            ) from error

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None.

        Raises:
            ProgramError: The file is there and cannot be read.
        """
        if not self._checkpoint.exists():
            return None
        try:
            return torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ProgramError(
                ExitCode.STATE_UNUSABLE,
                f"{self._checkpoint} cannot be read ({type(error).__name__}); move it away, or choose another --state",
            ) from error

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint, wholly or not at all.

        Raises:
            ProgramError: The disk does not take it.
        """
        draft = self._checkpoint.with_suffix(".draft")
        try:
            with draft.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            _rename_durably(draft, self._checkpoint)
        except OSError as error:
            raise _unwritable(self._checkpoint, error) from error

    def unfit(self, what: str, error: Exception) -> ProgramError:
        """The error to raise where the checkpoint could be read, and cannot be used."""
        return ProgramError(
            ExitCode.STATE_UNUSABLE,
            f"{self._checkpoint} {what} ({type(error).__name__}: {error}); move it away, or choose another --state",
        )

    def reserved_version(self) -> int:
        """The highest version that may have been given away; 0 at the beginning.

        Raises:
            ProgramError: The file is there and holds no number.
        """
        try:
            return int(self._versions.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise ProgramError(
                ExitCode.STATE_UNUSABLE,
                f"{self._versions} holds no version number; move it away, or choose another --state",
            ) from error

    def reserve_versions(self, up_to: int) -> None:
        """Note on disk, durably, that versions up to this may be given away.

        Raises:
            ProgramError: The disk does not take it.
        """
        try:
            _write_durably(self._versions, str(up_to).encode())
        except OSError as error:
            raise _unwritable(self._versions, error) from error


class VersionCounter:
    """Gives away policy versions that only rise, across crashes and brokers that remember more than we do.

    Args:
        state: Where blocks are reserved.
        above: The highest version known from a checkpoint or from what the broker retains.
    """

    def __init__(self, state: StateFolder, *, above: int) -> None:
        self._state = state
        self._reserved = state.reserved_version()
        self.current = max(above, self._reserved)

    def next(self) -> int:
        """The next version; a block is reserved first where the last one is used up.

        Raises:
            ProgramError: The block cannot be reserved.
        """
        if self.current + 1 > self._reserved:
            self._reserved = self.current + _VERSION_BLOCK
            self._state.reserve_versions(self._reserved)
        self.current += 1
        return self.current


def _unwritable(path: Path, error: OSError) -> ProgramError:
    return ProgramError(
        ExitCode.STATE_UNUSABLE,
        f"cannot write {path}: {error.strerror}; make room on the disk, and start again to resume",
    )


def _write_durably(path: Path, content: bytes) -> None:
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _rename_durably(draft, path)


def _rename_durably(draft: Path, path: Path) -> None:
    draft.replace(path)
    sync_folder(path.parent)
