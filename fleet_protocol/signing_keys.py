"""What a program signs with: checked before it is needed, so that no board must refuse it, and followed while it runs.

A keyring expires, and keys are rotated, while a run goes on for weeks: the files are looked at again now and then, and
what has been replaced is used from then on.
"""

import logging
import os
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from fleet_protocol.clock import utc_timestamp
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.keyring import read_keyring
from fleet_protocol.signing import Signer

_log = logging.getLogger(__name__)

_LOOK_PERIOD_S: Final = 1.0
_DAY_S: Final = 86_400.0
_WARN_DAYS: Final = 14.0
_CLOCKS_DIFFER_S: Final = 600.0
"""Two machines that keep time are not further apart."""


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


class SigningKeys:
    """The key and keyring of a program's settings.

    Args:
        settings: Where they are.
        kinds: What the key must be allowed to sign.
        role: Whose key it is, for the sentence that says that it is not.

    Attributes:
        signer: What signs now.

    Raises:
        ProgramError: A file cannot be read, or boards would refuse what the key signs.
    """

    def __init__(self, settings: SigningSettings, *, kinds: Collection[str], role: str) -> None:
        self._fleet = settings.fleet
        self._files = Path(settings.signing_key), Path(settings.keyring)
        self._kinds = kinds
        self._role = role
        self._stamps = self._look()
        self._look_due_at = 0.0
        self.signer, self._expires_at = self._load()

    @classmethod
    def of(cls, settings: SigningSettings, *, kinds: Collection[str], role: str) -> "SigningKeys | None":
        """The keys that were set; None without any.

        Raises:
            ProgramError: Only one of both files is set, or they cannot be used.
        """
        if not (settings.signing_key or settings.keyring):
            return None
        if not (settings.signing_key and settings.keyring):
            raise ProgramError(
                ExitCode.CONFIG, "signing_key and keyring are set together, or neither; `edgerl keys init` makes both"
            )
        return cls(settings, kinds=kinds, role=role)

    def follow(self) -> bool:
        """Use files that have been replaced; False where they have not, or where boards would refuse the new ones."""
        if time.monotonic() < self._look_due_at:
            return False
        self._look_due_at = time.monotonic() + _LOOK_PERIOD_S
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            self.signer, self._expires_at = self._load()
        except ProgramError as error:  # perhaps only one of the two is there yet
            _log.warning("the new keys are not used: %s", error)
            return False
        _log.info("signing with key %s and the keyring that has come", self.signer.key.key_id)
        return True

    @property
    def problem(self) -> str:
        """What its operator should see to before boards refuse what is signed; empty while all is well."""
        days = (self._expires_at - utc_timestamp()) / _DAY_S
        if days > _WARN_DAYS:
            return ""
        when = f"expires in {days:.0f} days" if days > 0 else "has expired"
        return f"the keyring {self._files[1]} {when}; `edgerl keys renew DIR` makes a new one"

    def _look(self) -> list[tuple[int, int] | None]:
        return [(stat.st_mtime_ns, stat.st_ino) if (stat := _stat(file)) else None for file in self._files]

    def _load(self) -> tuple[Signer, float]:
        from fleet_protocol.keys import PrivateKey, key_id  # noqa: PLC0415 - not free, and only where there are keys

        key = PrivateKey.load(self._files[0])
        header, keyring, frame = read_keyring(self._files[1])
        if header.issued_at > utc_timestamp() + _CLOCKS_DIFFER_S:
            # Its runs and commands would be numbered below those that boards have seen, and all be refused.
            raise ProgramError(
                ExitCode.MACHINE_UNFIT,
                f"the keyring {self._files[1]} was made later than now, says this machine's clock "
                f"({datetime.fromtimestamp(utc_timestamp(), UTC).date()}): set the clock",
            )
        grant = next((grant for grant in keyring.keys if key_id(grant.public) == key.key_id), None)
        problem = ""
        if keyring.fleet != self._fleet:
            problem = f"is for fleet {keyring.fleet!r}, and not for {self._fleet!r}"
        elif header.expires_at < utc_timestamp():
            problem = "has expired; `edgerl keys renew DIR` makes a new one"
        elif grant is None or not set(self._kinds) <= set(grant.kinds):
            problem = (
                f"does not allow key {key.key_id} to sign {', '.join(self._kinds)}; `edgerl keys rotate {self._role} "
                "DIR` makes one that may"
            )
        if problem:
            raise ProgramError(ExitCode.CONFIG, f"the keyring {self._files[1]} {problem}")
        return Signer(key, frame), header.expires_at


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None
