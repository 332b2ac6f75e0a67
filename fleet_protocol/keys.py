"""Ed25519 keys as files and bytes.

Private keys are PKCS8 PEM files that only their owner may read; public ones are PEM files for boards, and 32 raw bytes
on the wire. Nothing here prints or logs a private byte. Imported only where there is a key: it costs 10 MB of memory.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.whole_files import PRIVATE, write_whole

LoadedT = TypeVar("LoadedT")


class PrivateKey:
    """A key that signs.

    Args:
        key: The library's key; None makes a new one.
    """

    def __init__(self, key: Ed25519PrivateKey | None = None) -> None:
        self._key = key or Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = key_id(self.public)

    def __repr__(self) -> str:
        return f"PrivateKey({self.key_id})"

    def sign(self, data: bytes) -> bytes:
        """Sign data: 64 bytes."""
        return self._key.sign(data)

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner only.

        Raises:
            OSError: The disk does not take it.
        """
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_whole(path, pem, mode=PRIVATE)

    def save_public(self, path: Path) -> None:
        """Write the public half.

        Raises:
            OSError: The disk does not take it.
        """
        pem = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_whole(path, pem)

    @classmethod
    def load(cls, path: Path) -> "PrivateKey":
        """Read a file that `save` wrote.

        Raises:
            ProgramError: It cannot be read, or holds no Ed25519 private key.
        """
        key = _load(path, lambda pem: load_pem_private_key(pem, password=None), what="private")
        if not isinstance(key, Ed25519PrivateKey):
            raise _not_a_key(path, "private")
        return cls(key)


def key_id(public: bytes) -> str:
    """The name of a public key: the first 64 bits of its SHA-256, in hex."""
    return hashlib.sha256(public).hexdigest()[:16]


def is_signed(data: bytes, signature: bytes, *, public: bytes) -> bool:
    """Whether a signature over data was made with the private half of a public key (32 raw bytes)."""
    with suppress(InvalidSignature, ValueError):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
        return True
    return False


def load_public(path: Path) -> bytes:
    """Read a public key file; returns 32 raw bytes.

    Raises:
        ProgramError: It cannot be read, or holds no Ed25519 public key.
    """
    key = _load(path, load_pem_public_key, what="public")
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(path, "public")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _load(path: Path, parse: Callable[[bytes], LoadedT], *, what: str) -> LoadedT:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ProgramError(ExitCode.CONFIG, f"cannot read the {what} key {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _not_a_key(path, what) from None  # the library's words may quote the file


def _not_a_key(path: Path, what: str) -> ProgramError:
    return ProgramError(
        ExitCode.CONFIG, f"{path} holds no Ed25519 {what} key (PEM, no passphrase); `edgerl keys init DIR` makes one"
    )
