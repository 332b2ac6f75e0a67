"""What a board and its fleet's depot say to each other, once, before the board has a certificate.

A token is what the operator gives to a board's owner: whose certificate it is for, a secret that counts once, and the
fingerprint of what the board is to trust, so that it knows the depot at first contact without a file. All of it is JSON
over HTTPS: the board asks for `TRUST_PATH` and compares it with the fingerprint, and only then shows the secret.
"""

import hashlib
import re
import secrets
import ssl
from dataclasses import dataclass, fields
from typing import Annotated, Final

from msgspec import Meta, Struct

from fleet_protocol.topics import BadName, checked_name

TRUST_PATH: Final = "/trust"
ENROLL_PATH: Final = "/enroll"
RENEW_PATH: Final = "/renew"
DEFAULT_DEPOT_PORT: Final = 8443
MAX_REQUEST_BYTES: Final = 16_384
MAX_ANSWER_BYTES: Final = 65_536
_SECRET_BYTES: Final = 24
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{32}")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")

Pem = Annotated[str, Meta(max_length=8_192)]


class BadToken(ValueError):
    """A text that is no token; says what was expected, and nothing of what came, which may hold a secret."""


class FleetTrust(Struct, frozen=True, kw_only=True):
    """What a board is to trust from its first day on; nothing of it is secret."""

    ca: Pem
    """The CA's certificate: the broker and the depot have one of its."""
    root_public: Pem
    """The public key that vouches for all that a board acts on."""

    def fingerprint(self) -> str:
        """SHA-256 of both, in hex."""
        return hashlib.sha256(f"{self.ca}\0{self.root_public}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """The right to one certificate.

    Attributes:
        board_id: Whose.
        secret: 192 random bits, of which the depot knows the hash only.
        fingerprint: Of the fleet's FleetTrust.
    """

    board_id: str
    secret: str
    fingerprint: str

    @classmethod
    def new(cls, board_id: str, *, trust: FleetTrust) -> "EnrolmentToken":
        """Make one."""
        return cls(board_id, secrets.token_urlsafe(_SECRET_BYTES), trust.fingerprint())

    @classmethod
    def parse(cls, text: str) -> "EnrolmentToken":
        """Read what `str` made.

        Raises:
            BadToken: It is no token.
        """
        parts: list[str] = text.strip().split(":")
        if len(parts) != len(fields(cls)):
            raise BadToken("expected a token BOARD:SECRET:FINGERPRINT, as `edgerl enroll BOARD --token` prints it")
        board_id, secret, fingerprint = parts
        try:
            checked_name(board_id, what="board")
        except BadName as error:
            raise BadToken("the token does not begin with a board's id; was it copied as a whole?") from error
        if not (_SECRET.fullmatch(secret) and _FINGERPRINT.fullmatch(fingerprint)):
            raise BadToken("the token is cut or changed; was it copied as a whole?")
        return cls(board_id, secret, fingerprint)

    @property
    def secret_hash(self) -> bytes:
        """What the depot keeps. Nothing slower than SHA-256 is needed for a secret that nobody can guess."""
        return hash_secret(self.secret)

    def __str__(self) -> str:
        return f"{self.board_id}:{self.secret}:{self.fingerprint}"

    def __repr__(self) -> str:
        return f"EnrolmentToken({self.board_id!r})"  # a traceback is a log too


class EnrollRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A board's wish; of the CSR only the public key counts."""

    board_id: Annotated[str, Meta(min_length=1, max_length=63)]
    secret: Annotated[str, Meta(max_length=64)]
    csr: Pem

    def __repr__(self) -> str:
        return f"EnrollRequest({self.board_id!r})"


class RenewRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The wish of a board that has a certificate, which it shows in the handshake: its name is taken from there."""

    csr: Pem


class Admission(Struct, frozen=True, kw_only=True):
    """What makes a key a member of the fleet."""

    certificate: Pem
    settings: Annotated[str, Meta(max_length=8_192)]
    """Text of the board's edgerl.toml."""


class Refusal(Struct, frozen=True, kw_only=True):
    """Why not."""

    problem: Annotated[str, Meta(max_length=2_000)]


def hash_secret(secret: str) -> bytes:
    """What is stored of a token's secret."""
    return hashlib.sha256(secret.encode()).digest()


def certificate_fingerprint(pem: str) -> str:
    """SHA-256 of a certificate, in hex, as other tools print it."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
