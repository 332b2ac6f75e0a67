"""A fleet's folder as `edgerl broker init` makes it, and a mosquitto that runs its configuration as it stands."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgerl.broker import free_port
from edgerl.broker_command import find_mosquitto
from fleet_manager.fleet_folder import FleetFolder
from fleet_protocol.address import BrokerAddress
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.tls import TlsFiles


class HardenedFleet:
    """The fleet `home` with boards b1 and b2, and its running broker."""

    def __init__(self, root: Path, mosquitto: str) -> None:
        self.port = free_port()
        self.folder = FleetFolder.create(root / "fleet", fleet="home", hosts=["127.0.0.1", "localhost"], port=self.port)
        for board in ("b1", "b2"):
            self.folder.enroll(board)
        self.log = root / "mosquitto.log"
        with self.log.open("wb") as log:
            command = [mosquitto, "-c", str(self.folder.broker / "mosquitto.conf")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def files(self, name: str) -> TlsFiles:
        """The files of a role or a board."""
        return files_in(self.folder.credentials(name))

    def address(self, name: str, host: str = "127.0.0.1") -> BrokerAddress:
        """The broker, as a role or a board reaches it."""
        return BrokerAddress(host, self.port, self.files(name))

    def connection(self, name: str, heard: Callable[[str, bytes], None] | None = None) -> MqttConnection:
        """A session of a role or a board, which asks for everything."""
        everything = [Subscription("#", 1, heard)] if heard else []
        return MqttConnection(self.address(name), client_id=name, subscriptions=everything)

    def reload(self) -> None:
        """Have the broker read its files again, and wait until it has."""
        before = self.said().count("Reloading config")
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while self.said().count("Reloading config") == before:
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)

    def said(self) -> str:
        """The broker's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def files_in(folder: Path) -> TlsFiles:
    """The files that a folder of credentials holds."""
    return TlsFiles(folder / "ca.crt", folder / "client.crt", folder / "client.key")


@contextmanager
def hardened_fleet() -> Iterator[HardenedFleet]:
    """A fleet and its broker; without mosquitto it skips here and fails in CI."""
    mosquitto = find_mosquitto()
    if mosquitto is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mosquitto is missing: apt install mosquitto")
    with tempfile.TemporaryDirectory(prefix="edgerl-fleet-") as name:
        Path(name).chmod(0o755)  # started by root, mosquitto is another user before it reads its files
        fleet = HardenedFleet(Path(name), mosquitto)
        try:
            with fleet.connection("learner") as first:
                first.wait_connected(15)
            yield fleet
        finally:
            fleet.process.terminate()
            assert fleet.process.wait(10) == 0, fleet.said()
