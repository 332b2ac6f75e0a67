"""The one door for what changes what a board does: signed frames by the root's word, or unsigned ones on loopback."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fleet_protocol.codec import decode, encode
from fleet_protocol.messages import FrameHeader
from fleet_protocol.signing import open_frame

if TYPE_CHECKING:
    from fleet_protocol.trust import Trust


class FrameGate:
    """Opens frames; with a root key only those that it vouches for.

    Args:
        root_key: File of the root's public key; empty = none, and unsigned frames are taken on loopback.
        fleet: The fleet's name.
        clock_floor_s: UTC seconds before which this board's clock is known to be wrong.
        is_loopback: The broker is on this machine.
        floors: What `save` was given in an earlier start, as bytes; empty = nothing.
        save: Takes the floors, encoded, whenever they rise.

    Raises:
        ProgramError: The file cannot be read, or holds no public key.
        BadMessage, FrameRefused: The saved floors are none, or not of this root and fleet.
    """

    def __init__(
        self,
        root_key: str,
        *,
        fleet: str,
        clock_floor_s: float,
        is_loopback: bool,
        floors: bytes = b"",
        save: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._trust = _make_trust(root_key, fleet, clock_floor_s, floors, save) if root_key else None
        self._unsigned_allowed = is_loopback

    def open(self, payload: bytes, *, kind: str, target: str) -> tuple[FrameHeader, bytes]:
        """Check a frame, and return its header and body.

        Raises:
            FrameRefused: It must not be acted on.
        """
        return open_frame(payload, kind=kind, target=target, unsigned_allowed=self._unsigned_allowed, trust=self._trust)

    def note(self, header: FrameHeader) -> None:
        """Note a frame that was acted on: nothing older is accepted any more."""
        if self._trust is not None:
            self._trust.note(header)

    def is_revoked(self, header: FrameHeader | None) -> bool:
        """Whether the key of a frame that was acted on was taken back since: its version binds nobody any more."""
        return self._trust is not None and header is not None and self._trust.is_revoked(header.issuer)


def _make_trust(
    root_key: str, fleet: str, clock_floor_s: float, floors: bytes, save: Callable[[bytes], None]
) -> "Trust":
    # Only here: a board without a root key need not pay 10 MB for cryptography.
    from fleet_protocol.keys import load_public  # noqa: PLC0415
    from fleet_protocol.trust import Floors, Trust  # noqa: PLC0415

    return Trust(
        load_public(Path(root_key)),
        fleet=fleet,
        clock_floor_s=clock_floor_s,
        floors=decode(floors, Floors) if floors else None,
        save=lambda risen: save(encode(risen)),
    )
