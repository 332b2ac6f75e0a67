"""The key that a program signs with: found and checked before it is needed, so that no board must refuse it."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from fleet_protocol.clock import utc_timestamp
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.keyring import read_keyring
from fleet_protocol.signing import Signer


class SigningSettings(Protocol):
    """The settings by which a program finds its key: the same names everywhere."""

    @property
    def fleet(self) -> str:
        """Name of the fleet."""
        ...

    @property
    def signing_key(self) -> str:
        """File of the private key."""
        ...

    @property
    def keyring(self) -> str:
        """File of the keyring that names it."""
        ...


def load_signer(settings: SigningSettings, *, kinds: Collection[str], role: str) -> Signer | None:
    """The key and keyring that were set; None without any.

    Args:
        settings: Where they are.
        kinds: What the key must be allowed to sign.
        role: Whose key it is, for the sentence that says that it is not.

    Raises:
        ProgramError: Only one of both is set, a file cannot be read, or boards would refuse what the key signs.
    """
    if not (settings.signing_key or settings.keyring):
        return None
    if not (settings.signing_key and settings.keyring):
        raise ProgramError(
            ExitCode.CONFIG, "signing_key and keyring are set together, or neither; `edgerl keys init` makes both"
        )
    from fleet_protocol.keys import PrivateKey, key_id  # noqa: PLC0415 - not free, and only where there are keys

    key, payload = PrivateKey.load(Path(settings.signing_key)), Path(settings.keyring)
    header, keyring, frame = read_keyring(payload)
    grant = next((grant for grant in keyring.keys if key_id(grant.public) == key.key_id), None)
    problem = ""
    if keyring.fleet != settings.fleet:
        problem = f"is for fleet {keyring.fleet!r}, and not for {settings.fleet!r}"
    elif header.expires_at < utc_timestamp():
        problem = "has expired; `edgerl keys renew DIR` makes a new one"
    elif grant is None or not set(kinds) <= set(grant.kinds):
        may = ", ".join(kinds)
        problem = f"does not allow key {key.key_id} to sign {may}; `edgerl keys rotate {role} DIR` makes one that may"
    if problem:
        raise ProgramError(ExitCode.CONFIG, f"the keyring {payload} {problem}")
    return Signer(key, frame)
