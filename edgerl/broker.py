"""A broker on this machine's loopback: mosquitto where it is installed, else the embedded amqtt."""

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection

BrokerKind = Literal["auto", "mosquitto", "amqtt"]

_HOST: Final = "127.0.0.1"
_START_WAIT_S: Final = 15.0
_END_WAIT_S: Final = 2.0
_SBIN: Final = "/usr/sbin:/usr/local/sbin"
"""Debian keeps mosquitto here, and leaves it off a user's PATH."""

# Nothing is persisted: what must last is retained again by its owner, or stands in an outbox.
_MOSQUITTO_CONF: Final = """\
listener {port} {host}
allow_anonymous true
set_tcp_nodelay true
max_packet_size 8388608
max_inflight_messages 100
max_queued_messages 0
max_queued_bytes 268435456
persistence false
{user}"""


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that answers.

    Attributes:
        address: Where.
        kind: mosquitto or amqtt.
        version: Its version.
        pid: Its process.
    """

    address: BrokerAddress
    kind: str
    version: str
    pid: int


@contextmanager
def start_broker(port: int | None, *, kind: BrokerKind = "auto") -> Iterator[RunningBroker]:
    """Run a broker until the context ends.

    Args:
        port: On 127.0.0.1; None chooses a free one.
        kind: Which broker; `auto` prefers mosquitto.

    Raises:
        ProgramError: The port is taken, the broker is not installed, or it does not come up.
    """
    chosen = free_port() if port is None else port
    _require_free(chosen)
    with tempfile.TemporaryDirectory(prefix="edgerl-broker-") as folder:
        command, name, version = _command(kind, chosen, Path(folder))
        log = Path(folder) / "log"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C ends a broker only through the program that started it.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            address = BrokerAddress(_HOST, chosen)
            _wait_until_it_answers(process, address, name, log)
            yield RunningBroker(address, name, version, process.pid)
        finally:
            _end(process)


def run_broker(port: int, *, kind: BrokerKind = "auto") -> None:
    """Run a broker until SIGINT or SIGTERM (`edgerl broker run`).

    Raises:
        ProgramError: As `start_broker`, or the broker died.
    """
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    with start_broker(port, kind=kind) as broker:
        print(f"{broker.kind} {broker.version} at {broker.address}, loopback only; Ctrl-C ends it", flush=True)  # noqa: T201
        while not stop.wait(0.2):
            if not Path(f"/proc/{broker.pid}").exists() or _is_zombie(broker.pid):
                raise ProgramError(ExitCode.PROCESS_DIED, f"the broker {broker.kind} at {broker.address} has died")


def find_mosquitto() -> str | None:
    """Path of mosquitto, or None; `EDGERL_BROKER_KIND=amqtt` hides it."""
    if os.environ.get("EDGERL_BROKER_KIND") == "amqtt":
        return None
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)


def free_port() -> int:
    """A port on 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]


def _command(kind: BrokerKind, port: int, folder: Path) -> tuple[list[str], str, str]:
    mosquitto = find_mosquitto()
    if kind == "mosquitto" and mosquitto is None:
        raise ProgramError(
            ExitCode.DEPENDENCY_MISSING, "mosquitto is not installed: `apt install mosquitto`, or use --kind amqtt"
        )
    if mosquitto is not None and kind != "amqtt":
        config = folder / "mosquitto.conf"
        # Started as root, mosquitto would become the user `mosquitto`, who may not exist or read our folder.
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(_MOSQUITTO_CONF.format(port=port, host=_HOST, user=user), encoding="ascii")
        return [mosquitto, "-c", str(config)], "mosquitto", _mosquitto_version(mosquitto)
    if importlib.util.find_spec("amqtt") is None:
        raise ProgramError(
            ExitCode.DEPENDENCY_MISSING,
            "no broker is installed: `apt install mosquitto`, or pip install 'edgerl[broker]' for the embedded amqtt",
        )
    return (
        [sys.executable, "-m", "edgerl.embedded_broker", str(port)],
        "amqtt",
        importlib.metadata.version("amqtt"),
    )


def _mosquitto_version(path: str) -> str:
    said = subprocess.run([path, "-h"], capture_output=True, text=True, check=False).stdout.split()
    return said[2] if said[1:2] == ["version"] else "unknown"


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ProgramError(
                ExitCode.PORT_IN_USE,
                f"port {port} on {_HOST} is taken ({error.strerror}); choose another with --port, or end that program",
            ) from error


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", address: BrokerAddress, name: str, log: Path) -> None:
    deadline = time.monotonic() + _START_WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((address.host, address.port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.02)
    if process.poll() is None:
        with MqttConnection(address, client_id="broker-probe", subscriptions=[]) as probe:
            probe.wait_connected(max(0.1, deadline - time.monotonic()))
        return
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise ProgramError(ExitCode.PROCESS_DIED, f"{name} did not start: {said[-1] if said else 'it said nothing'}")


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
