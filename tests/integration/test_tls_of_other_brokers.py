"""A client says what is wrong with a broker's certificate or with a clock, and plain text goes nowhere unasked."""

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hardened_broker import files_in

from cloud_learner.__main__ import main as learn
from edge_actor.__main__ import main as act
from edge_actor.config import BoardSettings
from edgerl.doctor.checks import check_broker
from fleet_manager.authority import CertificateAuthority, key_pem, new_key
from fleet_manager.fleet_folder import FleetFolder
from fleet_monitor.__main__ import main as monitor
from fleet_protocol.address import BrokerAddress, broker_address
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.mqtt import MqttConnection
from fleet_protocol.settings import load_settings

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    folder = FleetFolder.create(tmp_path_factory.mktemp("fleet"), fleet="home", hosts=["127.0.0.1"])
    folder.enroll("b1")
    return folder


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """A TLS server with `server.crt` and `server.key` of a folder; yields its port on 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with suppress(OSError), context.wrap_socket(connection, server_side=True) as shaken:
                        shaken.recv(1)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def make_server(fleet: FleetFolder, folder: Path, *, begins: timedelta, ends: timedelta) -> None:
    """A certificate of the fleet's CA for 127.0.0.1, valid from and to some time from now."""
    issuer = fleet.broker.parent / "authority"
    key = new_key()
    pem = CertificateAuthority(issuer).issue_server(key.public_key(), name="broker", hosts=["127.0.0.1"])
    model = x509.load_pem_x509_certificate(pem)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(model.issuer, model.subject, model.public_key(), model.serial_number)
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    for extension in model.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    ca_key = serialization.load_pem_private_key((issuer / "ca.key").read_bytes(), password=None)
    certificate = builder.sign(ca_key, hashes.SHA256())
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(key_pem(key))


@pytest.mark.parametrize(
    ("begins", "ends", "sentence"),
    [(-2 * DAY, -DAY, "has expired, says this machine's clock"), (DAY, 2 * DAY, "not valid yet, says this machine's")],
    ids=["expired", "a clock before its beginning"],
)
def test_a_wrong_date_says_clock(fleet: FleetFolder, tmp_path: Path, begins: timedelta, ends: timedelta, sentence: str):
    make_server(fleet, tmp_path, begins=begins, ends=ends)
    files = files_in(fleet.credentials("b1"))
    with (
        tls_server(tmp_path) as port,
        MqttConnection(BrokerAddress("127.0.0.1", port, files), client_id="b1", subscriptions=[]) as connection,
        pytest.raises(ProgramError, match=sentence) as refused,
    ):
        connection.wait_connected(2)
    assert refused.value.exit_code == ExitCode.CERTIFICATE_REFUSED
    assert str(datetime.now(UTC).date()) in str(refused.value)
    assert "set the clock" in str(refused.value)


def test_certificates_begin_in_1970_where_a_board_without_a_clock_starts(fleet: FleetFolder):
    root = fleet.broker.parent
    files = [*root.rglob("*.crt")]
    assert len(files) > 8
    for file in files:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        assert certificate.not_valid_before_utc == datetime(1970, 1, 1, tzinfo=UTC)
        assert certificate.not_valid_after_utc > datetime.now(UTC) + 3650 * DAY
    revocations = x509.load_pem_x509_crl((root / "broker/revoked.crl").read_bytes())
    assert revocations.last_update_utc < datetime.now(UTC) - timedelta(hours=23)
    assert revocations.next_update_utc is not None
    assert revocations.next_update_utc > datetime.now(UTC) + 3650 * DAY


def test_the_doctor_names_a_broker_that_is_not_the_fleets(fleet: FleetFolder, tmp_path: Path):
    other = FleetFolder.create(tmp_path / "other", fleet="home", hosts=["127.0.0.1"])
    with tls_server(other.broker) as port:
        config = fleet.credentials("b1") / "edgerl.toml"
        settings = load_settings(BoardSettings, "board", file=config, flags={"broker": f"127.0.0.1:{port}"})
        finding = check_broker(settings)
    assert finding.exit_code == ExitCode.CERTIFICATE_REFUSED
    assert "of another CA" in finding.found


# --- settings


def settings(**values: object) -> BoardSettings:
    return msgspec.convert(values, BoardSettings)


def test_plain_text_leaves_this_machine_only_when_that_is_said(caplog: pytest.LogCaptureFixture):
    with pytest.raises(ProgramError, match="edgerl broker init") as refused:
        broker_address(settings(broker="192.0.2.7"))
    assert refused.value.exit_code == ExitCode.ADDRESS_REFUSED
    with caplog.at_level(logging.WARNING):
        assert broker_address(settings(broker="192.0.2.7", insecure=True)) == BrokerAddress("192.0.2.7", 1883)
    assert "whoever is on the network" in caplog.text


def test_on_this_machine_plain_text_needs_no_word(caplog: pytest.LogCaptureFixture):
    assert broker_address(settings(insecure=True)) == broker_address(settings()) == BrokerAddress("127.0.0.1", 1883)
    assert not caplog.text


def test_with_certificates_any_host_may_be_spoken_to_and_the_port_is_8883(fleet: FleetFolder):
    files = files_in(fleet.credentials("b1"))
    paths = {"ca": str(files.ca), "cert": str(files.cert), "key": str(files.key)}
    assert broker_address(settings(broker="192.0.2.7", **paths)) == BrokerAddress("192.0.2.7", 8883, files)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"key": ""}, "key is not set"),
        ({"ca": "", "cert": ""}, "ca and cert is not set"),
        ({"ca": "nowhere.crt"}, "ca nowhere.crt cannot be read"),
        ({"ca": "client.key"}, "expected a certificate in PEM"),
        ({"cert": "ca.crt"}, "do not fit"),
        ({"key": "ca.crt"}, "do not fit"),
    ],
)
def test_files_that_do_not_fit_are_named(
    fleet: FleetFolder, change: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(fleet.credentials("b1"))
    files = {"ca": "ca.crt", "cert": "client.crt", "key": "client.key"} | change
    with pytest.raises(ProgramError, match=sentence) as refused:
        broker_address(settings(**files))
    assert refused.value.exit_code == ExitCode.CONFIG


def test_an_encrypted_key_is_refused_without_asking_for_a_password(fleet: FleetFolder, tmp_path: Path):
    pem = new_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    (tmp_path / "key").write_bytes(pem)
    files = files_in(fleet.credentials("b1"))
    with pytest.raises(ProgramError, match="not encrypted"):
        broker_address(settings(ca=str(files.ca), cert=str(files.cert), key=str(tmp_path / "key")))


@pytest.mark.parametrize("program", [learn, act, monitor])
def test_every_program_refuses_another_machine_in_plain_text(program, capsys: pytest.CaptureFixture[str]):
    assert program(["--broker", "192.0.2.7"]) == ExitCode.ADDRESS_REFUSED
    assert "set ca, cert and key" in capsys.readouterr().err


def test_a_board_is_who_its_certificate_says(fleet: FleetFolder, capsys: pytest.CaptureFixture[str]):
    config = str(fleet.credentials("b1") / "edgerl.toml")
    assert act(["--config", config, "--board", "b2"]) == ExitCode.CONFIG
    assert "is for 'b1'" in capsys.readouterr().err
