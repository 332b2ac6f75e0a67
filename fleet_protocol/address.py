"""Where the broker is, and whether it may be spoken to in plain text."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from fleet_protocol.exit_codes import ExitCode, ProgramError

DEFAULT_PORT: Final = 1883
_SPELLED: Final = re.compile(
    r"(?P<bare>[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,})"  # an IPv6 address, and no port
    r"|(\[(?P<bracketed>[^\[\]\s]+)\]|(?P<host>[^\[\]\s:]+))(:(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Host and port of an MQTT broker."""

    host: str
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str) -> "BrokerAddress":
        """Read `HOST`, `HOST:PORT` or `[V6]:PORT`.

        Raises:
            ProgramError: It is none of these.
        """
        spelled = _SPELLED.fullmatch(text)
        number = int(spelled["port"] or DEFAULT_PORT) if spelled else 0
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
            ProgramError: It is not loopback: without TLS and signatures, whoever is on the network owns the fleet.
        """
        if not self.is_loopback:
            raise ProgramError(
                ExitCode.ADDRESS_REFUSED,
                f"broker {self}: only loopback addresses (127.0.0.1, ::1, localhost) are allowed until the fleet has "
                "TLS and signatures",
            )
        return self

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
