"""What to run for a broker: mosquitto with the limits of our protocol, or the embedded amqtt."""

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError

BrokerKind = Literal["auto", "mosquitto", "amqtt"]

_SBIN: Final = "/usr/sbin:/usr/local/sbin"
"""Debian keeps mosquitto here, and leaves it off a user's PATH."""

# Nothing is persisted: what must last is retained again by its owner, or stands in an outbox.
# The limits are our protocol's; the defaults lose messages of a slow subscriber (1000) and, from 2.1, large policies.
_MOSQUITTO_CONF: Final = """\
listener {port} {host}
allow_anonymous true
set_tcp_nodelay true
max_packet_size 8388608
max_inflight_messages 100
max_queued_messages 0
max_queued_bytes 268435456
persistence false
log_dest stderr
log_type error
log_type warning
{user}"""

# The child runs this first, and then becomes the broker: Linux ends it (prctl 1 is PR_SET_PDEATHSIG) when the thread
# that started it ends, however that happens. A preexec_fn could do the same, but not safely beside other threads.
_END_WITH_PARENT: Final = f"""\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class BrokerCommand:
    """A broker that is installed, and the command that runs it."""

    kind: str
    version: str
    command: list[str]


def find_mosquitto() -> str | None:
    """Path of mosquitto, or None; `EDGERL_BROKER_KIND=amqtt` hides it."""
    if os.environ.get("EDGERL_BROKER_KIND") == "amqtt":
        return None
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)


def broker_command(kind: BrokerKind, *, address: BrokerAddress, folder: Path) -> BrokerCommand:
    """Choose a broker.

    Args:
        kind: Which one; `auto` prefers mosquitto.
        address: Where it is to listen.
        folder: Where its configuration may be written.

    Raises:
        ProgramError: It is not installed.
    """
    mosquitto = None if kind == "amqtt" else find_mosquitto()
    if mosquitto is not None:
        return _mosquitto_command(mosquitto, address, folder)
    if kind == "mosquitto":
        raise ProgramError(
            ExitCode.DEPENDENCY_MISSING,
            "mosquitto is not installed: `apt install mosquitto`, or choose the embedded amqtt",
        )
    if importlib.util.find_spec("amqtt") is None:
        raise ProgramError(
            ExitCode.DEPENDENCY_MISSING,
            "no broker is installed: `apt install mosquitto`, or pip install 'edgerl[broker]' for the embedded amqtt",
        )
    command = [sys.executable, "-m", "edgerl.embedded_broker", "--port", str(address.port)]
    return BrokerCommand("amqtt", importlib.metadata.version("amqtt"), ending_with_us(command))


def _mosquitto_command(path: str, address: BrokerAddress, folder: Path) -> BrokerCommand:
    config = folder / "mosquitto.conf"
    # Started as root, mosquitto would become the user `mosquitto`, who may not exist or read our folder.
    user = "user root\n" if os.geteuid() == 0 else ""
    config.write_text(_MOSQUITTO_CONF.format(port=address.port, host=address.host, user=user), encoding="ascii")
    said = subprocess.run([path, "-h"], capture_output=True, text=True, check=False).stdout.split()
    version = said[2] if said[1:2] == ["version"] else "unknown"
    return BrokerCommand("mosquitto", version, ending_with_us([path, "-c", str(config)]))


def ending_with_us(command: list[str]) -> list[str]:
    """The same command, but the system ends it (SIGTERM) when the thread that starts it ends, even by SIGKILL."""
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid()), *command]
