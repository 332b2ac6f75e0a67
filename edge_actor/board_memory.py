"""What a board keeps over a restart, to act before any network is there: its run and its last good policy (D7).

Both are kept as the frames that they came in, so that whatever checks a frame from the broker checks them again. Files
are replaced wholly or not at all; what cannot be read is as if it were not there, and counted.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_actor.policy_shelf import HeldPolicy
from fleet_protocol.codec import BadMessage, decode
from fleet_protocol.messages import FrameHeader, RunSpec
from fleet_protocol.signing import FrameRefused, open_frame

_RUN: Final = "run.frame"
_POLICY: Final = "policy.frame"

Count = Callable[[str, str], None]
"""Takes a counter's name and a sentence."""


class BoardMemory:
    """Two files in the board's state folder, or nothing at all where it has none.

    Args:
        folder: The state folder; None keeps nothing.
        keep_policy_every_s: A policy is written no more often than this: cards wear out.
        unsigned_allowed: As for frames from the broker.
        count: Told of what cannot be read or written.
    """

    def __init__(
        self, folder: Path | None, *, keep_policy_every_s: float, unsigned_allowed: bool, count: Count
    ) -> None:
        self._folder = folder
        self._keep_policy_every_s = keep_policy_every_s
        self._unsigned_allowed = unsigned_allowed
        self._count = count
        self._policy_due_at = 0.0
        self._kept_version = 0

    def recall_run(self) -> RunSpec | None:
        """The run that the board was last told of."""
        body = self._open(_RUN, "run")
        try:
            return decode(body[1], RunSpec) if body else None
        except BadMessage as error:
            self._count("state_unreadable", f"{_RUN}: {error}")
            return None

    def recall_policy(self) -> HeldPolicy | None:
        """The last policy that had proved itself."""
        frame = self._read(_POLICY)
        opened = self._open(_POLICY, "policy")
        if frame is None or opened is None:
            return None
        self._kept_version = opened[0].version
        return HeldPolicy(*opened, frame=frame)

    def keep_run(self, frame: bytes) -> None:
        """Keep a run's frame; unchanged, it is not written again."""
        if self._folder is not None and self._read(_RUN) != frame:
            self._write(_RUN, frame)
            self._kept_version, self._policy_due_at = 0, 0.0

    def keep_policy(self, policy: HeldPolicy | None, *, now: bool = False) -> None:
        """Keep a policy that has proved itself, if it is time for that, or at once."""
        if self._folder is None or policy is None or policy.version <= self._kept_version:
            return
        if now or time.monotonic() >= self._policy_due_at:
            self._policy_due_at = time.monotonic() + self._keep_policy_every_s
            self._kept_version = policy.version
            self._write(_POLICY, policy.frame)

    def _open(self, name: str, kind: str) -> tuple[FrameHeader, bytes] | None:
        frame = self._read(name)
        if frame is None:
            return None
        try:
            # Expiry gates acceptance, never continued use.
            return open_frame(frame, kind=kind, unsigned_allowed=self._unsigned_allowed, may_be_expired=True)
        except FrameRefused as error:
            self._count("state_unreadable", f"{name} in the state folder is of no use: {error}")
            return None

    def _read(self, name: str) -> bytes | None:
        if self._folder is None:
            return None
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._count("state_unreadable", f"cannot read {self._folder / name}: {error.strerror}")
            return None

    def _write(self, name: str, frame: bytes) -> None:
        assert self._folder is not None  # noqa: S101 - asked before
        path = self._folder / name
        draft = path.with_suffix(".draft")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(frame)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_folder(self._folder)
        except OSError as error:
            self._count("state_unwritable", f"cannot write {path}: {error.strerror}; the board acts on without it")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
