"""Signed frames: the one shape of everything that changes what a board does.

A header names kind, run, version, target and times, and its body by size and SHA-256; the signature covers the exact
header bytes, which are never encoded again. On loopback the signature is empty, and that is the only place where it
may be; keys come with the fleet's certificates.
"""

import hashlib
from typing import Final

from fleet_protocol.clock import kernel_boot_id, utc_timestamp
from fleet_protocol.codec import BadMessage, decode, encode
from fleet_protocol.messages import Frame, FrameHeader

__all__ = ["ALL_BOARDS", "FrameRefused", "open_frame", "seal_frame"]

ALL_BOARDS: Final = "all"


class FrameRefused(ValueError):
    """A frame that must not be acted on; `reason` is the name under which it is counted."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def seal_frame(
    body: bytes,
    *,
    kind: str,
    version: int,
    run_id: str,
    target: str = ALL_BOARDS,
    issuer: str = "learner",
    valid_s: float = 86_400.0,
    issued_monotonic_ns: int = 0,
) -> bytes:
    """Wrap a body in a frame, ready to publish.

    Args:
        body: The encoded message or policy file.
        kind: What it is: `run`, `policy`, `command`, `candidate` or `desired`.
        version: Policy version, generation, or command counter.
        run_id: The run that it belongs to.
        target: The group or board that it is for.
        issuer: Who made it.
        valid_s: Seconds after which nobody accepts it any more.
        issued_monotonic_ns: The issuer's monotonic clock, for measuring on one machine.
    """
    issued_at = utc_timestamp()
    header = FrameHeader(
        kind=kind,  # type: ignore[arg-type]
        issuer=issuer,
        run_id=run_id,
        version=version,
        target=target,
        issued_at=issued_at,
        expires_at=issued_at + valid_s,
        size=len(body),
        sha256=hashlib.sha256(body).digest(),
        issued_monotonic_ns=issued_monotonic_ns,
        kernel_boot_id=kernel_boot_id() if issued_monotonic_ns else "",
    )
    return encode(Frame(header=encode(header), signature=b"", body=body))


def open_frame(
    payload: bytes, *, kind: str, unsigned_allowed: bool, may_be_expired: bool = False
) -> tuple[FrameHeader, bytes]:
    """Check a frame from the outside inwards, and return its header and body.

    Args:
        payload: What came.
        kind: What the topic carries.
        unsigned_allowed: The broker's address is loopback and the board holds no root key.
        may_be_expired: It was accepted in its time: expiry gates acceptance, never continued use.

    Raises:
        FrameRefused: It is undecodable, unsigned, of another kind, expired, or its body is not the one it names.
    """
    try:
        frame = decode(payload, Frame)
        header = decode(frame.header, FrameHeader)
    except BadMessage as error:
        raise FrameRefused("undecodable", str(error)) from error
    if frame.signature or not unsigned_allowed:
        raise FrameRefused("signature", "expected a signature by a known key, and this board holds no key to check one")
    if header.kind != kind:
        raise FrameRefused("kind", f"expected a frame of kind {kind}, got {header.kind}")
    if not may_be_expired and not header.expires_at >= utc_timestamp():  # so, and not <, because of nan
        raise FrameRefused("expired", f"{kind} {header.version} expired; is this board's clock right?")
    if header.size != len(frame.body):
        raise FrameRefused("size", f"expected a body of {header.size} bytes, got {len(frame.body)}")
    if header.sha256 != hashlib.sha256(frame.body).digest():
        raise FrameRefused("hash", f"the body of {kind} {header.version} is not the one that its header names")
    return header, frame.body
