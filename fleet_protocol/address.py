"""Where the broker is, and how it may be spoken to: over TLS, or in plain text on this machine."""

import ipaddress
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.tls import TlsFiles

_log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 1883
DEFAULT_TLS_PORT: Final = 8883
_SPELLED: Final = re.compile(
    r"(?P<bare>[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,})"  # an IPv6 address, and no port
    r"|(\[(?P<bracketed>[^\[\]\s]+)\]|(?P<host>[^\[\]\s:]+))(:(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Host and port of an MQTT broker, and the files for TLS; without them it is spoken to in plain text."""

    host: str
    port: int = DEFAULT_PORT
    tls: TlsFiles | None = None

    @classmethod
    def parse(cls, text: str, *, default_port: int = DEFAULT_PORT) -> "BrokerAddress":
        """Read `HOST`, `HOST:PORT` or `[V6]:PORT`.

        Raises:
            ProgramError: It is none of these.
        """
        spelled = _SPELLED.fullmatch(text)
        number = int(spelled["port"] or default_port) if spelled else 0
        if not spelled or not 0 < number < 65_536:  # noqa: PLR2004 - TCP's ports
            raise ProgramError(
                ExitCode.USAGE, f"broker {text[:80]!r}: expected HOST or HOST:PORT, as in 127.0.0.1:1883"
            )
        return cls(spelled["bracketed"] or spelled["bare"] or spelled["host"], number)

    @property
    def is_loopback(self) -> bool:
        """True when nothing outside this machine can be at the other end."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def require_loopback(self) -> "BrokerAddress":
        """Return the address itself.

        Raises:
            ProgramError: It is not loopback: in plain text, whoever is on the network owns the fleet.
        """
        if not self.is_loopback:
            raise ProgramError(
                ExitCode.ADDRESS_REFUSED,
                f"broker {self}: without certificates only this machine (127.0.0.1, ::1, localhost) may be spoken to; "
                "set ca, cert and key (`edgerl broker init` makes them)",
            )
        return self

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BrokerSettings(Protocol):
    """The settings by which every program reaches its broker: the same names everywhere."""

    @property
    def broker(self) -> str:
        """Address of the MQTT broker, HOST or HOST:PORT."""
        ...

    @property
    def ca(self) -> str:
        """The fleet's CA."""
        ...

    @property
    def cert(self) -> str:
        """The program's certificate."""
        ...

    @property
    def key(self) -> str:
        """Its private key."""
        ...

    @property
    def insecure(self) -> bool:
        """Plain text is allowed to other machines."""
        ...


def broker_address(settings: BrokerSettings) -> BrokerAddress:
    """The broker that a program's settings name, and how it is to be spoken to.

    Raises:
        ProgramError: It is no address; the files for TLS are not complete or not usable; or it is another machine's,
            without TLS and without `insecure`.
    """
    files = {"ca": settings.ca, "cert": settings.cert, "key": settings.key}
    missing = [name for name, path in files.items() if not path]
    if not missing:
        tls = TlsFiles(**{name: Path(path) for name, path in files.items()})
        tls.context()  # a wrong file is told at once, not when the network is there
        return replace(BrokerAddress.parse(settings.broker, default_port=DEFAULT_TLS_PORT), tls=tls)
    if len(missing) < len(files):
        raise ProgramError(
            ExitCode.CONFIG, f"TLS needs all of ca, cert and key, and {' and '.join(missing)} is not set"
        )
    address = BrokerAddress.parse(settings.broker)
    if not settings.insecure:
        return address.require_loopback()
    if not address.is_loopback:
        _log.warning(
            "insecure: broker %s is spoken to in plain text; whoever is on the network between can read all that the "
            "fleet says, pass for any board and for the learner, and change what boards do",
            address,
        )
    return address
