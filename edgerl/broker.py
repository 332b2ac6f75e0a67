"""A broker on this machine's loopback: mosquitto where it is installed, else the embedded amqtt."""

import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgerl.broker_command import BrokerKind, broker_command
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection

_HOST: Final = "127.0.0.1"
_START_WAIT_S: Final = 15.0
_END_WAIT_S: Final = 2.0
_WATCH_PERIOD_S: Final = 0.2
_LINES_OF_AN_ERROR: Final = 3
_NEVER_LENT: Final = range(20_000, 32_768)  # Linux lends 32768 to 60999, others 49152 and above


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that answers.

    Attributes:
        address: Where.
        kind: mosquitto or amqtt.
        version: Its version.
        process: The process that it is.
        log: The file of what it says.
    """

    address: BrokerAddress
    kind: str
    version: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def raise_if_dead(self) -> None:
        """Notice its end.

        Raises:
            ProgramError: It has died; with what it said last.
        """
        if self.process.poll() is None:
            return
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ProgramError(
            ExitCode.PROCESS_DIED,
            f"the broker {self.kind} at {self.address} ended with code {self.process.returncode}: "
            f"{'; '.join(said[-_LINES_OF_AN_ERROR:]) or 'it said nothing'}",
        )


@contextmanager
def start_broker(port: int | None, *, kind: BrokerKind = "auto") -> Iterator[RunningBroker]:
    """Run a broker until the context ends, or the thread that entered it.

    Args:
        port: On 127.0.0.1; None chooses a free one.
        kind: Which broker; `auto` prefers mosquitto.

    Raises:
        ProgramError: The port is taken, the broker is not installed, or it does not come up.
    """
    address = BrokerAddress(_HOST, free_port() if port is None else port)
    _require_free(address)
    with tempfile.TemporaryDirectory(prefix="edgerl-broker-") as name:
        folder = Path(name)
        chosen = broker_command(kind, address=address, folder=folder)
        log = folder / "log"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C ends a broker only through the program that started it.
            process = subprocess.Popen(
                chosen.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            broker = RunningBroker(address, chosen.kind, chosen.version, process, log)
            _wait_until_it_answers(broker)
            yield broker
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
        while not stop.wait(_WATCH_PERIOD_S):
            broker.raise_if_dead()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody uses now.

    None that the kernel lends to whoever asks for any port: it would be gone when a broker that was away comes back.
    """
    while True:
        port = random.choice(_NEVER_LENT)  # noqa: S311 - no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind((_HOST, port))
            return port


def _require_free(address: BrokerAddress) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise ProgramError(
                ExitCode.PORT_IN_USE,
                f"port {address.port} on {address.host} cannot be had ({error.strerror}): "
                "choose another with --port, or end the program that uses it",
            ) from error


def _wait_until_it_answers(broker: RunningBroker) -> None:
    """Wait for its port, and then for a CONNACK."""
    deadline = time.monotonic() + _START_WAIT_S
    while time.monotonic() < deadline and not _accepts(broker.address):
        broker.raise_if_dead()
        time.sleep(0.01)
    with MqttConnection(broker.address, client_id="broker-probe", subscriptions=[]) as probe:
        while time.monotonic() < deadline and not probe.is_connected:
            broker.raise_if_dead()
            time.sleep(0.01)
        probe.wait_connected(0)


def _accepts(address: BrokerAddress) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_END_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
