"""The two ways in which a fleet is run, for benchmarks that compare them: plain on loopback, and as it is secured."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgerl.broker import free_port, start_broker
from edgerl.broker_command import find_mosquitto
from fleet_manager.fleet_folder import FleetFolder
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.tls import TlsFiles

NAME = "fleet"
BOARD = "b1"
_BROKER_WAIT_S = 15.0


@dataclass(frozen=True, slots=True)
class BenchFleet:
    """A broker that answers, and how programs reach it.

    Attributes:
        folder: Where programs may keep things; it is gone with the fleet.
        monitor: The address for the monitor's part.
        learner: Flags of the learner.
        board: Flags of the board.
        broker: The broker's process.
    """

    folder: Path
    monitor: BrokerAddress
    learner: tuple[str, ...]
    board: tuple[str, ...]
    broker: "subprocess.Popen[bytes]"


@contextmanager
def plain_fleet() -> Iterator[BenchFleet]:
    """Plain text on loopback, nothing signed, nothing kept by the board."""
    with _folder() as folder, start_broker(None, kind="mosquitto") as broker:
        where = ("--broker", str(broker.address), "--fleet", NAME)
        yield BenchFleet(folder, broker.address, where, (*where, "--board", BOARD, "--state", ""), broker.process)


@contextmanager
def secured_fleet() -> Iterator[BenchFleet]:
    """As `edgerl broker init` and `edgerl enroll` make it: TLS with client certificates, signed frames, a state folder.

    Raises:
        ProgramError: mosquitto is not installed, or does not come up.
    """
    mosquitto = find_mosquitto()
    if mosquitto is None:
        raise ProgramError(ExitCode.DEPENDENCY_MISSING, "mosquitto is not installed: `apt install mosquitto`")
    with _folder() as folder:
        port = free_port()
        fleet = FleetFolder.create(folder / "fleet", fleet=NAME, hosts=["127.0.0.1"], port=port)
        settings = fleet.enroll(BOARD) / "edgerl.toml"
        command = [mosquitto, "-c", str(fleet.broker / "mosquitto.conf")]
        broker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            address = BrokerAddress("127.0.0.1", port, _files(fleet, "monitor"))
            with MqttConnection(address, client_id="monitor", subscriptions=[]) as first:
                first.wait_connected(_BROKER_WAIT_S)
            learner = ("--config", str(fleet.credentials("learner") / "edgerl.toml"))
            board = ("--config", str(settings), "--state", str(folder / "boards"))
            yield BenchFleet(folder, address, learner, board, broker)
        finally:
            broker.terminate()
            broker.wait()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgerl-fleet-") as name:
        Path(name).chmod(0o755)  # started by root, mosquitto is another user before it reads its files
        yield Path(name)


def _files(fleet: FleetFolder, name: str) -> TlsFiles:
    folder = fleet.credentials(name)
    return TlsFiles(folder / "ca.crt", folder / "client.crt", folder / "client.key")
