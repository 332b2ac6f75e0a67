"""F28: without a valid certificate nobody gets in, and with one nobody is somebody else; both sides say why."""

import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from edge_actor.enrol import enroll
from fleet_manager.authority import CertificateAuthority, key_pem, new_key
from fleet_manager.enrolment import Enrolment
from fleet_manager.fleet_folder import FleetFolder
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection, Subscription
from fleet_protocol.tls import TlsFiles

sys.path.append(str(Path(__file__).parents[1] / "integration"))
from fleet_processes import Program
from hardened_broker import HardenedFleet, hardened_fleet
from running_depot import running_depot

WaitUntil = Callable[..., None]


@pytest.fixture
def fleet() -> Iterator[HardenedFleet]:
    with hardened_fleet() as fleet:
        yield fleet


def root_of(fleet: HardenedFleet) -> Path:
    return fleet.folder.broker.parent


def refusal(fleet: HardenedFleet, files: TlsFiles | None) -> ProgramError:
    """What the refused one is told; the broker's log must have a line about it too."""
    before = len(fleet.said())
    address = BrokerAddress("127.0.0.1", fleet.port, files)
    with MqttConnection(address, client_id="b1", subscriptions=[]) as stranger, pytest.raises(ProgramError) as refused:
        stranger.wait_connected(8)
    assert stranger.connects == 0
    assert "error" in fleet.said()[before:].lower()
    return refused.value


def forged(fleet: HardenedFleet, folder: Path, *, authority: Path, valid: timedelta = timedelta(days=1)) -> TlsFiles:
    """A certificate for b1 by the CA in `authority`, for who trusts our broker."""
    key = new_key()
    pem = CertificateAuthority(authority).issue_client(key.public_key(), name="b1", valid=valid)
    (folder / "forged.pem").write_bytes(key_pem(key) + pem)
    return TlsFiles(fleet.files("b1").ca, folder / "forged.pem", folder / "forged.pem")


def test_F28_without_a_certificate_nobody_gets_in(fleet: HardenedFleet):
    context = ssl.create_default_context(cafile=str(fleet.files("b1").ca))
    with (
        socket.create_connection(("127.0.0.1", fleet.port), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.recv(1)
    assert "did not return a certificate" in fleet.said()


def test_F28_an_expired_certificate_is_refused(fleet: HardenedFleet, tmp_path: Path):
    files = forged(fleet, tmp_path, authority=root_of(fleet) / "authority", valid=timedelta(days=-1))
    error = refusal(fleet, files)
    assert error.exit_code == ExitCode.CERTIFICATE_REFUSED
    assert "it has expired" in str(error)


@pytest.mark.thorough
def test_F28_a_certificate_of_another_ca_is_refused(fleet: HardenedFleet, tmp_path: Path):
    FleetFolder.create(tmp_path / "other", fleet="home", hosts=["127.0.0.1"])
    error = refusal(fleet, forged(fleet, tmp_path, authority=tmp_path / "other/authority"))
    assert error.exit_code == ExitCode.CERTIFICATE_REFUSED
    assert "of another CA than the broker's" in str(error)


@pytest.mark.thorough
def test_F28_anonymous_plain_mqtt_is_refused_at_the_tls_port(fleet: HardenedFleet):
    error = refusal(fleet, None)
    assert error.exit_code == ExitCode.NO_BROKER
    assert "does it demand TLS?" in str(error)


def test_F28_no_other_port_is_open(fleet: HardenedFleet):
    assert (fleet.folder.broker / "mosquitto.conf").read_text().count("listener ") == 1
    listening = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    sockets = {f"socket:[{row[9]}]" for row in listening if row[3] == "0A"}
    ports = {int(row[1].rsplit(":", 1)[1], 16) for row in listening if f"socket:[{row[9]}]" in sockets & _open(fleet)}
    assert ports == {fleet.port}


def test_F28_a_board_enrolled_at_the_depot_is_let_in_and_revoked_it_is_not(
    fleet: HardenedFleet, tmp_path: Path, wait_until: WaitUntil
):
    with running_depot(root_of(fleet), tmp_path) as depot:
        enroll(depot.url, depot.token("b9"), tmp_path / "b9")
        files = TlsFiles(tmp_path / "b9/ca.crt", tmp_path / "b9/client.pem", tmp_path / "b9/client.pem")
        heard: list[bytes] = []
        with (
            fleet.connection("monitor", lambda _topic, payload: heard.append(payload)) as monitor,
            MqttConnection(BrokerAddress("127.0.0.1", fleet.port, files), client_id="b9", subscriptions=[]) as board,
        ):
            monitor.wait_connected(10)
            board.wait_connected(10)

            def is_heard() -> bool:
                board.publish("edgerl/1/home/board/b9/up/log", b"here I am")  # again: the monitor may not listen yet
                return b"here I am" in heard

            wait_until(is_heard, timeout_s=30, what="the board's word")
            Enrolment(root_of(fleet)).revoke("b9")
            fleet.reload()
            board.publish("edgerl/1/home/board/b9/up/log", b"and still")
            wait_until(lambda: "it is revoked" in board.last_problem, timeout_s=60, what="the refusal")
        assert set(heard) == {b"here I am"}
        assert "revoked" in str(refusal(fleet, files))
        assert [entry["name"] for entry in depot.audited("revoked")] == ["b9"]


@pytest.mark.parametrize("topic", ["board/b2/up/log", "board/b2/status", "board/b1/down/command", "run", "learner"])
def test_F28_a_board_does_not_speak_for_another_whatever_client_id_it_takes(
    fleet: HardenedFleet, topic: str, wait_until: WaitUntil
):
    heard: list[tuple[str, bytes]] = []
    with Listeners(fleet, heard):
        with MqttConnection(fleet.address("b1"), client_id="b2", subscriptions=[]) as thief:
            thief.wait_connected(10)
            thief.publish(f"edgerl/1/home/{topic}", b"forged")
            wait_until(lambda: thief.flush(0.01) or not thief.is_connected, what="the broker's answer")
        with fleet.connection("b1") as honest:
            honest.wait_connected(10)
            honest.publish("edgerl/1/home/board/b1/up/log", b"honest")
            wait_until(lambda: ("edgerl/1/home/board/b1/up/log", b"honest") in heard, what="the board's own word")
    assert b"forged" not in [payload for _, payload in heard]


def test_F28_a_board_hears_nothing_of_another(fleet: HardenedFleet, wait_until: WaitUntil):
    heard: list[str] = []
    spy = MqttConnection(
        fleet.address("b1"),
        client_id="b1",
        subscriptions=[Subscription("#", 1, lambda topic, _payload: heard.append(topic))],
    )
    with spy, fleet.connection("learner") as learner:
        spy.wait_connected(10)
        learner.wait_connected(10)

        def is_heard() -> bool:
            for board in ("b2", "b1"):  # of two messages of one sender the second comes last
                learner.publish(f"edgerl/1/home/board/{board}/down/command", b"?")
            return bool(heard)

        wait_until(is_heard, timeout_s=30, what="the board's own command")
    assert set(heard) == {"edgerl/1/home/board/b1/down/command"}


def test_F28_a_board_cannot_be_a_board_of_another_name_by_its_settings(fleet: HardenedFleet, tmp_path: Path):
    config = fleet.folder.credentials("b1") / "edgerl.toml"
    with Program(tmp_path / "board.log", "edge_actor", "-c", str(config), "--board", "b2") as board:
        assert board.process.wait(60) == ExitCode.CONFIG
        assert "its certificate" in board.said()


class Listeners:
    """All who may hear something of boards, listening to everything."""

    def __init__(self, fleet: HardenedFleet, heard: list[tuple[str, bytes]]) -> None:
        self._connections = [
            fleet.connection(name, lambda topic, payload: heard.append((topic, payload)))
            for name in ("learner", "manager", "monitor", "b2")
        ]

    def __enter__(self) -> None:
        for connection in self._connections:
            connection.start()
            connection.wait_connected(10)

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()


def _open(fleet: HardenedFleet) -> set[str]:
    return {str(link.readlink()) for link in Path(f"/proc/{fleet.process.pid}/fd").iterdir()}
