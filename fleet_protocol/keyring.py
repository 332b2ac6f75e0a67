"""The keyring: the root's word on who may sign what. In a file it is the very frame that travels."""

from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from fleet_protocol.codec import BadMessage, Message, decode
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.messages import Frame, FrameHeader, Name

MAX_LINEAGE: Final = 8


class KeyGrant(Message, frozen=True, kw_only=True):
    """Which kinds of frames a key may sign."""

    public: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """Ed25519; its id is the first 16 hex digits of its SHA-256."""
    role: Name
    kinds: Annotated[list[Name], Meta(max_length=16)]


class Keyring(Message, frozen=True, kw_only=True):
    """Who may sign what. Its frame's version is its generation, and its frame's expiry that of every key."""

    fleet: Name
    keys: Annotated[list[KeyGrant], Meta(max_length=64)]
    revoked: Annotated[list[Name], Meta(max_length=256)] = []
    """Ids of keys that were stolen or lost: what they signed is refused, and what they have driven up is forgotten."""
    next_root: Annotated[bytes, Meta(max_length=32)] = b""
    """Public key of the root that takes the place of the one that signs this; then nothing else here counts."""
    lineage: Annotated[list[bytes], Meta(max_length=MAX_LINEAGE)] = []
    """Frames of the keyrings that handed over, from the first root to the one that signs this."""


def read_keyring(path: Path) -> tuple[FrameHeader, Keyring, bytes]:
    """Read a keyring's header, the keyring, and its frame's bytes; the file is trusted, boards trust the root only.

    Raises:
        ProgramError: The file cannot be read, or holds no keyring.
    """
    try:
        payload = path.read_bytes()
        frame = decode(payload, Frame)
        return decode(frame.header, FrameHeader), decode(frame.body, Keyring), payload
    except OSError as error:
        raise ProgramError(ExitCode.CONFIG, f"cannot read the keyring {path}: {error.strerror}") from error
    except BadMessage as error:
        raise ProgramError(ExitCode.CONFIG, f"{path} is no keyring: {error}") from error
