"""Where the broker is, and whether it may be spoken to in plain text."""

import ipaddress
from dataclasses import dataclass
from typing import Final

from fleet_protocol.exit_codes import ExitCode, ProgramError

DEFAULT_PORT: Final = 1883


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
        bare_v6 = text.count(":") > 1 and not text.startswith("[")
        host, _, port = (text, "", "") if bare_v6 else text.rpartition(":") if _has_port(text) else (text, "", "")
        number = int(port) if port.isdecimal() else (DEFAULT_PORT if not port else 0)
        if not host or not 0 < number < 65_536:  # noqa: PLR2004 - TCP's ports
            raise ProgramError(ExitCode.USAGE, f"broker {text!r}: expected HOST or HOST:PORT, as in 127.0.0.1:1883")
        return cls(host.strip("[]"), number)

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


def _has_port(text: str) -> bool:
    return ":" in text.rpartition("]")[2]
