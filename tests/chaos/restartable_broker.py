"""A mosquitto that is killed and comes back at the same address, with or without what it had."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgerl.broker import free_port
from edgerl.broker_command import broker_command
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection

PERSISTENCE = "persistence true\npersistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\n"


class RestartableBroker:
    """Not running at first.

    Args:
        folder: Where its configuration, its log, and what it persists go.
        persists: It writes all that it has to disk after each change.
    """

    def __init__(self, folder: Path, *, persists: bool = False) -> None:
        self.address = BrokerAddress("127.0.0.1", free_port())
        self._log = folder / "mosquitto.log"
        self._command = broker_command("mosquitto", address=self.address, folder=folder).command
        self._process: subprocess.Popen[bytes] | None = None
        config = folder / "mosquitto.conf"
        if persists:
            text = config.read_text(encoding="ascii")
            lines = PERSISTENCE.format(folder=folder)
            config.write_text(text.replace("persistence false\n", lines), encoding="ascii")

    def start(self) -> None:
        """Start, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            with MqttConnection(self.address, client_id="probe-of-the-test", subscriptions=[]) as probe:
                try:
                    probe.wait_connected(5)
                except ProgramError:
                    assert time.monotonic() < deadline, self._log.read_text(encoding="utf-8", errors="replace")
                    continue
            return

    def kill(self) -> None:
        """SIGKILL, and wait."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


@contextmanager
def restartable_broker(*, persists: bool = False) -> Iterator[RestartableBroker]:
    """A broker that runs; without mosquitto it skips here and fails in CI."""
    with tempfile.TemporaryDirectory(prefix="edgerl-broker-") as folder:
        try:
            broker = RestartableBroker(Path(folder), persists=persists)
        except ProgramError as error:
            if error.exit_code != ExitCode.DEPENDENCY_MISSING:
                raise
            (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
        try:
            broker.start()
            yield broker
        finally:
            broker.end()
