"""What a fleet is from its beginning on: its name, and where its broker is."""

import ipaddress
import re
from typing import Final

import msgspec

from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.topics import BadName, checked_name

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `init` was told, kept for those that come later."""

    fleet: str
    hosts: list[str]
    port: int


def checked(name: str, *, what: str) -> str:
    """Return the name of a fleet, board or role.

    Raises:
        ProgramError: It is none.
    """
    try:
        return checked_name(name, what=what)
    except BadName as error:
        raise ProgramError(ExitCode.USAGE, str(error)) from error


def check_host(host: str) -> None:
    """Check that a server can have this name.

    Raises:
        ProgramError: It is neither a host name nor an address.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise ProgramError(
                ExitCode.USAGE, f"--host {host[:80]!r}: expected a host name or an IP address, without a port"
            ) from None
