"""The generated broker as one block: with its certificates a fleet learns, and nobody else gets in or further."""

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from fleet_processes import Program, read_report
from hardened_broker import HardenedFleet, files_in, hardened_fleet

from fleet_manager.authority import CertificateAuthority, key_pem, new_key
from fleet_manager.fleet_folder import FleetFolder
from fleet_monitor.listing import list_boards
from fleet_protocol.address import BrokerAddress
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.tls import TlsFiles, find_refusal

WaitUntil = Callable[..., None]
EVERYBODY = {"b1", "b2", "learner", "manager", "monitor"}
# Topic below edgerl/1/home: who may say it, and who may hear it. It is the table of docs/security.md.
RIGHTS = {
    "run": ({"learner"}, EVERYBODY),
    "policy/all": ({"learner"}, EVERYBODY),
    "learner": ({"learner"}, EVERYBODY),
    "board/b1/up/trajectory": ({"b1"}, {"learner"}),
    "board/b1/up/telemetry": ({"b1"}, {"learner", "manager", "monitor"}),
    "board/b1/up/log": ({"b1"}, {"learner", "manager", "monitor"}),
    "board/b1/up/reply": ({"b1"}, {"learner", "manager"}),
    "board/b1/status": ({"b1"}, {"b1", "learner", "manager", "monitor"}),
    "board/b1/down/ack": ({"learner"}, {"b1"}),
    "board/b1/down/command": ({"learner", "manager"}, {"b1", "manager"}),
    "board/b1/down/candidate": ({"learner", "manager"}, {"b1", "manager"}),
    "board/b1/down/desired": ({"manager"}, {"b1", "manager"}),
    "board/monitor/up/trajectory": (set(), set()),
    "board/learner/status": (set(), set()),
    "anything/else": (set(), set()),
}


@pytest.fixture(scope="module")
def fleet() -> Iterator[HardenedFleet]:
    """One broker for all tests that do not change it."""
    with hardened_fleet() as fleet:
        yield fleet


@pytest.fixture
def own_fleet() -> Iterator[HardenedFleet]:
    """A broker whose files a test may change."""
    with hardened_fleet() as fleet:
        yield fleet


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    """Another fleet, of the same names."""
    return FleetFolder.create(tmp_path_factory.mktemp("stranger"), fleet="home", hosts=["127.0.0.1"])


def refusal_of(address: BrokerAddress) -> ProgramError:
    with (
        MqttConnection(address, client_id="x", subscriptions=[]) as connection,
        pytest.raises(ProgramError) as refused,
    ):
        connection.wait_connected(2)
    assert connection.connects == 0
    return refused.value


# --- what works


def test_a_learner_a_board_and_a_monitor_work_with_their_certificates(
    own_fleet: HardenedFleet, tmp_path: Path, wait_until: WaitUntil
):
    def program(module: str, name: str, *flags: str) -> Program:
        config = str(own_fleet.folder.credentials(name) / "edgerl.toml")
        return Program(tmp_path / f"{name}.log", module, "--config", config, *flags)

    output = ("--state", str(tmp_path / "state"), "--report", str(tmp_path / "report.json"))
    with (
        program("fleet_monitor", "monitor", "--db", str(tmp_path / "fleet.db")),
        program("edge_actor", "b1", "--telemetry-period-s", "0.3") as board,
        program("cloud_learner", "learner", *output, "--time-limit-s", "5", "--evaluation-episodes", "0") as learner,
    ):
        assert learner.process.wait(90) == ExitCode.OK, learner.said() + board.said()
        report = read_report(tmp_path)
        assert report["env_steps"] > 10_000
        assert report["learner_updates"] > 10
        assert set(report["boards"]) == {"b1"}
        windows = report["trajectories"]
        elsewhere = sum(windows["dropped"].values()) + windows["in_outbox"] + windows["lost_window"]
        assert windows["produced"] == windows["learned"] + elsewhere
        wait_until(lambda: [b.board_id for b in list_boards(tmp_path / "fleet.db")] == ["b1"], what="b1 in the list")


@pytest.mark.parametrize("sender", ["b1", "b2", "learner", "manager", "monitor"])
def test_everybody_says_and_hears_only_what_is_theirs(fleet: HardenedFleet, sender: str, wait_until: WaitUntil):
    heard: dict[str, set[str]] = {name: set() for name in EVERYBODY - {sender}}
    last = b"the last word"
    ended: set[str] = set()
    with ExitStack() as stack:
        for name, topics in heard.items():

            def hear(topic: str, payload: bytes, name: str = name, topics: set[str] = topics) -> None:
                ended.add(name) if payload == last else topics.add(topic.removeprefix("edgerl/1/home/"))

            stack.enter_context(fleet.connection(name, hear)).wait_connected(5)
        for topic in RIGHTS:
            say(fleet, sender, topic, b"?", wait_until)
        say(fleet, "learner", "learner", last, wait_until)  # everybody hears it; it throws the listening learner out
        wait_until(lambda: ended >= set(heard) - {"learner"}, what="the last word")
    expected = {
        name: {topic for topic, (writers, readers) in RIGHTS.items() if sender in writers and name in readers}
        for name in heard
    }
    assert heard == expected


def say(fleet: HardenedFleet, sender: str, topic: str, payload: bytes, wait_until: WaitUntil) -> None:
    """Publish in a session of its own, and wait until the broker has taken it or, as mosquitto 2.0 does, hung up."""
    root = "" if topic.startswith("anything") else "edgerl/1/home/"
    with fleet.connection(sender) as connection:
        connection.wait_connected(5)
        connection.publish(root + topic, payload)
        wait_until(lambda: connection.flush(0.01) or not connection.is_connected, what=f"an answer about {topic}")


def test_nobody_takes_over_the_session_of_another(fleet: HardenedFleet, wait_until: WaitUntil):
    with fleet.connection("b2") as victim:
        victim.wait_connected(5)
        with MqttConnection(fleet.address("b1"), client_id="b2", subscriptions=[]) as thief:
            thief.wait_connected(5)
            assert victim.flush(1)
            victim.publish("edgerl/1/home/board/b2/up/log", b"still here")
            assert victim.flush(5)
        assert victim.connects == 1


# --- who does not get in


def test_nobody_gets_in_without_a_certificate(fleet: HardenedFleet):
    context = ssl.create_default_context(cafile=str(fleet.files("b1").ca))
    with (
        socket.create_connection(("127.0.0.1", fleet.port), timeout=5) as plain,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.recv(1)


def test_tls_1_1_is_refused(fleet: HardenedFleet):
    said = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{fleet.port}", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "protocol version" in said.stderr


def test_plain_mqtt_is_refused(fleet: HardenedFleet):
    refused = refusal_of(BrokerAddress("127.0.0.1", fleet.port))
    assert refused.exit_code == ExitCode.NO_BROKER
    assert "does it demand TLS?" in str(refused)


def test_a_certificate_of_another_ca_is_refused(fleet: HardenedFleet, stranger: FleetFolder):
    other = files_in(stranger.credentials("learner"))
    refused = refusal_of(BrokerAddress("127.0.0.1", fleet.port, TlsFiles(fleet.files("b1").ca, other.cert, other.key)))
    assert refused.exit_code == ExitCode.CERTIFICATE_REFUSED
    assert "of another CA than the broker's" in str(refused)


def test_a_broker_of_another_ca_is_refused(fleet: HardenedFleet, stranger: FleetFolder):
    refused = refusal_of(BrokerAddress("127.0.0.1", fleet.port, files_in(stranger.credentials("learner"))))
    assert refused.exit_code == ExitCode.CERTIFICATE_REFUSED
    assert "of another CA than the one in `ca`" in str(refused)


def test_a_broker_under_another_name_is_refused(fleet: HardenedFleet):
    refused = refusal_of(fleet.address("b1", host="127.0.0.2"))
    assert refused.exit_code == ExitCode.CERTIFICATE_REFUSED
    assert "not for 127.0.0.2" in str(refused)
    with MqttConnection(fleet.address("b1", host="localhost"), client_id="b1", subscriptions=[]) as connection:
        connection.wait_connected(5)


@pytest.mark.parametrize(
    ("valid", "usage", "sentence"),
    [(timedelta(days=-1), "client", "it has expired"), (timedelta(days=1), "server", "wrong kind|not one for clients")],
)
def test_an_expired_certificate_and_one_for_servers_are_refused(
    fleet: HardenedFleet, tmp_path: Path, valid: timedelta, usage: str, sentence: str
):
    authority, key = CertificateAuthority(fleet.folder.broker.parent / "authority"), new_key()
    pem = (
        authority.issue_client(key.public_key(), name="b1", valid=valid)
        if usage == "client"
        else authority.issue_server(key.public_key(), name="learner", hosts=["127.0.0.1"], valid=valid)
    )
    (tmp_path / "crt").write_bytes(pem)
    (tmp_path / "key").write_bytes(key_pem(key))
    refused = refusal_of(
        BrokerAddress("127.0.0.1", fleet.port, TlsFiles(fleet.files("b1").ca, tmp_path / "crt", tmp_path / "key"))
    )
    assert refused.exit_code == ExitCode.CERTIFICATE_REFUSED
    assert any(part in str(refused) for part in sentence.split("|"))


# --- revocation


def test_a_revoked_board_is_silenced_at_once_and_let_in_no_more(own_fleet: HardenedFleet, wait_until: WaitUntil):
    heard: list[bytes] = []
    with (
        own_fleet.connection("learner", lambda _topic, payload: heard.append(payload)) as learner,
        own_fleet.connection("b1") as revoked,
        own_fleet.connection("b2") as other,
    ):
        for connection in (learner, revoked, other):
            connection.wait_connected(5)
        assert own_fleet.folder.revoke("b1") == 1
        own_fleet.reload()
        revoked.publish("edgerl/1/home/board/b1/up/log", b"of the revoked")
        wait_until(lambda: "it is revoked" in revoked.last_problem, what="the refusal")
        other.publish("edgerl/1/home/board/b2/up/log", b"of the other")
        wait_until(lambda: b"of the other" in heard, what="the other board's word")
        assert other.connects == 1
        assert revoked.connects == 1
    assert b"of the revoked" not in heard


def test_a_board_with_new_credentials_is_let_in_again_and_the_stolen_ones_are_not(
    own_fleet: HardenedFleet, tmp_path: Path
):
    stolen = TlsFiles(*(tmp_path / name for name in ("ca.crt", "client.crt", "client.key")))
    for copy in (stolen.ca, stolen.cert, stolen.key):
        copy.write_bytes((own_fleet.folder.credentials("b1") / copy.name).read_bytes())
    own_fleet.folder.revoke("b1")
    own_fleet.folder.renew("b1")
    own_fleet.reload()
    assert "it is revoked" in find_refusal(stolen, host="127.0.0.1", port=own_fleet.port, timeout_s=2)
    with own_fleet.connection("b1") as connection:
        connection.wait_connected(5)
        connection.publish("edgerl/1/home/board/b1/up/log", b"new")
        assert connection.flush(5)


def test_a_renewed_server_certificate_counts_after_a_reload(own_fleet: HardenedFleet):
    def shown() -> str:
        pem = ssl.get_server_certificate(("127.0.0.1", own_fleet.port))
        return pem.replace("\n", "")

    before = shown()
    own_fleet.folder.renew("broker")
    own_fleet.reload()
    assert shown() != before
