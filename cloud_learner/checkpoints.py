"""What survives the learner's process: weights, marks of finished windows, and the versions that were given away."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch

from fleet_protocol.audit import AuditLog
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.whole_files import make_folder, sync_folder, write_whole

_log = logging.getLogger(__name__)

_VERSION_BLOCK: Final = 1000


class StateUnwritable(ProgramError):
    """The disk does not take it now; the file is as it was."""


class StateFolder:
    """The learner's folder: `checkpoint.pt`, `versions` and `audit.db`.

    Args:
        path: Made if missing.
        is_only_read: Nothing is made or written, and nothing must be.

    Attributes:
        refusals: How often the disk has refused a file.

    Raises:
        ProgramError: It cannot be made or written.
    """

    def __init__(self, path: Path, *, is_only_read: bool = False) -> None:
        self.refusals = 0
        self._troubles: dict[Path, str] = {}
        self._checkpoint = path / "checkpoint.pt"
        self._versions = path / "versions"
        self._path = path
        if is_only_read:
            return
        try:
            make_folder(path)
            write_whole(path / ".writable", b"\n")  # not empty: a full disk takes a name, but no content
        except OSError as error:
            raise ProgramError(
                ExitCode.STATE_UNUSABLE,
                f"cannot write to the state folder {path}: {error.strerror}; choose another --state",
            ) from error

    @property
    def audit(self) -> AuditLog:
        """What the learner has commanded."""
        return AuditLog(self._path / "audit.db")

    @property
    def trouble(self) -> str:
        """Why a file there is older than it should be, in a sentence; empty when all is well."""
        return "; ".join(list(self._troubles.values()))

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
            StateUnwritable: The disk does not take it.
        """
        draft = self._checkpoint.with_suffix(".draft")
        try:
            with draft.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._checkpoint)
            sync_folder(self._path)
        except (OSError, RuntimeError) as error:  # torch hides the system's error in one of its own
            with suppress(OSError):  # half a file would only fill a disk that is full
                draft.unlink()
            raise self._refused(self._checkpoint, error) from error
        self._troubles.pop(self._checkpoint, None)

    def unfit(self, what: str, error: Exception) -> ProgramError:
        """The error to raise where the checkpoint could be read, and cannot be used."""
        return ProgramError(
            ExitCode.STATE_UNUSABLE,
            f"{self._checkpoint} {what} ({type(error).__name__}: {error}); move it away, or choose another --state",
        )

    def newer(self, schema: int, *, known: int) -> ProgramError:
        """The error to raise where the checkpoint is of a schema that is not known yet; it stays as it is."""
        return ProgramError(
            ExitCode.STATE_UNUSABLE,
            f"{self._checkpoint} was written by a newer EdgeRL (schema {schema}, known is {known}); update this one, "
            "or choose another --state",
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
            StateUnwritable: The disk does not take it.
        """
        try:
            write_whole(self._versions, str(up_to).encode())
        except OSError as error:
            raise self._refused(self._versions, error) from error
        self._troubles.pop(self._versions, None)

    def _refused(self, path: Path, error: OSError | RuntimeError) -> StateUnwritable:
        cause = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, OSError)), None)
        why = cause.strerror if cause else str(error).splitlines()[0]
        sentence = f"cannot write {path}: {why}; make room on the disk, or repair it"
        if path not in self._troubles:
            _log.warning("%s; it is tried again", sentence)
        self.refusals += 1
        self._troubles[path] = sentence
        return StateUnwritable(ExitCode.STATE_UNUSABLE, sentence)


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
            StateUnwritable: The block cannot be reserved.
        """
        if self.current + 1 > self._reserved:
            self._state.reserve_versions(self.current + _VERSION_BLOCK)
            self._reserved = self.current + _VERSION_BLOCK
        self.current += 1
        return self.current
