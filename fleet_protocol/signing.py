"""Signed frames: the one shape of everything that changes what a board does.

A header names kind, run, version, target and times, and its body by size and SHA-256; the signature covers the exact
header bytes, which are never encoded again. The signature is empty only on loopback, where the board holds no root key.
Whose signature counts is judged by `trust.py`.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

from fleet_protocol.clock import kernel_boot_id, utc_timestamp
from fleet_protocol.codec import MAX_MESSAGE_BYTES, BadMessage, decode, encode
from fleet_protocol.messages import Frame, FrameHeader

__all__ = [
    "ALL_BOARDS",
    "KEYRING",
    "FrameRefused",
    "Signer",
    "is_signed_otherwise",
    "open_frame",
    "seal_frame",
    "sign_again",
]

ALL_BOARDS: Final = "all"
KEYRING: Final = "keys"
_LARGE_KINDS: Final = ("policy", "candidate")
_MAX_SMALL_FRAME_BYTES: Final = 262_144
"""The largest RunSpec (4,096 numbers and its arguments) fits; only policies are larger."""


class FrameRefused(ValueError):
    """A frame that must not be acted on; `reason` is the name under which it is counted."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Key(Protocol):
    """What signs: `keys.PrivateKey`, whose import is not free."""

    @property
    def key_id(self) -> str:
        """Names the public half."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Sign data."""
        ...


class Judge(Protocol):
    """What decides whose signature counts: `trust.Trust`."""

    def judge(self, frame: Frame, header: FrameHeader, /) -> float:
        """Return the time to compare expiries with, or raise FrameRefused."""
        ...

    def recall(self, frame: Frame, header: FrameHeader, /) -> float:
        """The same for a frame that was accepted before."""
        ...


@dataclass(frozen=True, slots=True)
class Signer:
    """A key, and the root's word (the frame of a Keyring) that it may sign."""

    key: Key
    keyring: bytes = b""


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
    signer: Signer | None = None,
) -> bytes:
    """Wrap a body in a frame, ready to publish.

    Args:
        body: The encoded message or policy file.
        kind: What it is: `run`, `policy`, `command`, `candidate`, `desired` or `keys`.
        version: Policy version, generation, or command counter.
        run_id: The run that it belongs to.
        target: The group or board that it is for.
        issuer: Who made it, where nothing signs.
        valid_s: Seconds after which nobody accepts it any more.
        issued_monotonic_ns: The issuer's monotonic clock, for measuring on one machine.
        signer: Signs it; None leaves it unsigned, for loopback.
    """
    issued_at = utc_timestamp()
    header = FrameHeader(
        kind=kind,  # type: ignore[arg-type]
        issuer=signer.key.key_id if signer else issuer,
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
    signed = encode(header)
    if signer is None:
        return encode(Frame(header=signed, signature=b"", body=body))
    return encode(Frame(header=signed, signature=signer.key.sign(signed), body=body, keyring=signer.keyring))


def sign_again(payload: bytes, signer: Signer) -> bytes:
    """A frame of ours with the same body and version, signed by the key that counts now."""
    frame = decode(payload, Frame)
    header = decode(frame.header, FrameHeader)
    return seal_frame(
        frame.body,
        kind=header.kind,
        version=header.version,
        run_id=header.run_id,
        target=header.target,
        valid_s=header.expires_at - header.issued_at,
        issued_monotonic_ns=header.issued_monotonic_ns,
        signer=signer,
    )


def is_signed_otherwise(payload: bytes, signer: Signer) -> bool:
    """Whether a frame of ours was signed by another key, or under another keyring, than counts now."""
    frame = decode(payload, Frame)
    return frame.keyring != signer.keyring or decode(frame.header, FrameHeader).issuer != signer.key.key_id


def open_frame(
    payload: bytes,
    *,
    kind: str,
    target: str | None = None,
    unsigned_allowed: bool = False,
    trust: Judge | None = None,
    is_remembered: bool = False,
) -> tuple[FrameHeader, bytes]:
    """Check a frame from the outside inwards, the cheap before the dear, and return its header and body.

    Args:
        payload: What came.
        kind: What the topic carries.
        target: The group or board that it must be for; None asks for none.
        unsigned_allowed: The broker's address is loopback; with `trust` it does not matter.
        trust: Judges the signature, and takes no unsigned frame; without it a signed frame is refused.
        is_remembered: It was accepted in its time: expiry and floors gate acceptance, never continued use.

    Raises:
        FrameRefused: It must not be acted on; docs/protocol.md lists the reasons.
    """
    frame, header = _decoded(payload, kind)
    if trust is not None:
        now = trust.recall(frame, header) if is_remembered else trust.judge(frame, header)
    elif frame.signature or not unsigned_allowed:
        raise FrameRefused("signature", "expected a signature by a known key, and this board holds no key to check one")
    else:
        now = utc_timestamp()
    if kind != KEYRING and not is_remembered and not header.expires_at >= now:  # so, and not <, because of nan
        raise FrameRefused("expired", f"{kind} {header.version} expired; is this board's clock right?")
    if target is not None and header.target != target:
        raise FrameRefused("target", f"{kind} {header.version} is for {header.target!r}, and came to {target!r}")
    if header.size != len(frame.body):
        raise FrameRefused("size", f"expected a body of {header.size} bytes, got {len(frame.body)}")
    if header.sha256 != hashlib.sha256(frame.body).digest():
        raise FrameRefused("hash", f"the body of {kind} {header.version} is not the one that its header names")
    return header, frame.body


def _decoded(payload: bytes, kind: str) -> tuple[Frame, FrameHeader]:
    largest = MAX_MESSAGE_BYTES if kind in _LARGE_KINDS else _MAX_SMALL_FRAME_BYTES
    if len(payload) > largest:
        raise FrameRefused("too_large", f"expected a {kind} of at most {largest} bytes, got {len(payload)}")
    try:
        frame = decode(payload, Frame)
        header = decode(frame.header, FrameHeader)
    except BadMessage as error:
        raise FrameRefused("undecodable", str(error)) from error
    if header.kind != kind:
        raise FrameRefused("kind", f"expected a frame of kind {kind}, got {header.kind}")
    return frame, header
