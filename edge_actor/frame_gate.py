"""The one door for what changes what a board does: signed frames by the root's word, or unsigned ones on loopback."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_actor.board_files import BoardFiles
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.messages import FrameHeader
from fleet_protocol.signing import FrameRefused, open_frame

if TYPE_CHECKING:
    from fleet_protocol.trust import Floors, Trust

_FILE: Final = "floors"


class FrameGate:
    """Opens frames; with a root key only those that it vouches for.

    Args:
        root_key: File of the root's public key; empty = none, and unsigned frames are taken on loopback.
        fleet: The fleet's name.
        clock_floor_s: UTC seconds before which this board's clock is known to be wrong.
        is_loopback: The broker is on this machine.
        files: Where the newest keyring and the floors survive a restart.
        keep_every_s: Policies raise a floor every second; it is written no more often than this. After a power cut a
            policy may come back that is older by so much, and no more.

    Raises:
        ProgramError: The file cannot be read, or holds no public key.
    """

    def __init__(
        self,
        root_key: str,
        *,
        fleet: str,
        clock_floor_s: float,
        is_loopback: bool,
        files: BoardFiles,
        keep_every_s: float,
    ) -> None:
        self._trust = _make_trust(root_key, fleet, clock_floor_s, files) if root_key else None
        self._unsigned_allowed = is_loopback
        self._files = files
        self._keep_every_s = keep_every_s
        self._kept = self._trust.floors if self._trust else None
        self._due_at = time.monotonic() + keep_every_s

    def open(self, payload: bytes, *, kind: str, target: str) -> tuple[FrameHeader, bytes]:
        """Check a frame, and return its header and body.

        Raises:
            FrameRefused: It must not be acted on.
        """
        return open_frame(payload, kind=kind, target=target, unsigned_allowed=self._unsigned_allowed, trust=self._trust)

    def reopen(self, payload: bytes, *, kind: str) -> tuple[FrameHeader, bytes]:
        """Check a frame that was acted on before, and has lain on this board's disk since.

        Raises:
            FrameRefused: It is not what was written, or its key was revoked since.
        """
        return open_frame(
            payload, kind=kind, unsigned_allowed=self._unsigned_allowed, trust=self._trust, is_remembered=True
        )

    def note(self, header: FrameHeader) -> None:
        """Note a frame that was acted on: nothing older is accepted any more."""
        if self._trust is not None:
            self._trust.note(header)

    def is_revoked(self, header: FrameHeader | None) -> bool:
        """Whether the key of a frame that was acted on was taken back since: its version binds nobody any more."""
        return self._trust is not None and header is not None and self._trust.is_revoked(header.issuer)

    def keep(self, *, now: bool = False) -> None:
        """Write the floors where they have risen: keyrings, runs and commands at once, policies when it is time."""
        if self._trust is None or self._kept is None or self._trust.floors is self._kept:
            return
        floors = self._trust.floors
        if now or time.monotonic() >= self._due_at or floors.lasting() != self._kept.lasting():
            self._kept = floors
            self._due_at = time.monotonic() + self._keep_every_s
            self._files.write(_FILE, encode(floors))


def _make_trust(root_key: str, fleet: str, clock_floor_s: float, files: BoardFiles) -> "Trust":
    # Only here: a board without a root key need not pay 10 MB for cryptography.
    from fleet_protocol.keys import load_public  # noqa: PLC0415
    from fleet_protocol.trust import Floors, Trust  # noqa: PLC0415

    root = load_public(Path(root_key))

    def trust(floors: "Floors") -> Trust:
        return Trust(root, fleet=fleet, clock_floor_s=clock_floor_s, floors=floors)

    kept = files.read(_FILE)
    try:
        return trust(decode(kept, Floors) if kept is not None else Floors())
    except (BadMessage, FrameRefused) as error:  # torn, or of another root: the board was given a new one
        files.note_useless(_FILE, error)
        return trust(Floors())
