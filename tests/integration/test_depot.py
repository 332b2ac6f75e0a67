"""The depot gives what it must and nothing else: names are the token's, limits hold, and a board's files are whole."""

import base64
import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from running_depot import EDGERL, RunningDepot, running_depot

from edge_actor.enrol import enroll, renew
from fleet_manager.enrolment import Enrolment
from fleet_manager.fleet_folder import FleetFolder
from fleet_protocol.enrolment import MAX_REQUEST_BYTES
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.tls import TlsFiles


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[RunningDepot]:
    FleetFolder.create(tmp_path / "fleet", fleet="home", hosts=["127.0.0.1", "localhost"])
    with running_depot(tmp_path / "fleet", tmp_path) as depot:
        yield depot


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *, name: str = "b1") -> str:
    """A CSR that wishes for all that a board must not have."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("broker.local")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def forged(csr_pem: str) -> str:
    """The same, with another signature, as from somebody who has not the key."""
    der = bytearray(base64.b64decode("".join(csr_pem.splitlines()[1:-1])))
    der[-1] ^= 1
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


def wish(depot: RunningDepot, csr_pem: str, board_id: str = "b1") -> bytes:
    return json.dumps({"board_id": board_id, "secret": depot.token(board_id).secret, "csr": csr_pem}).encode()


# --- what a board gets


def test_a_boards_folder_is_whole_and_its_key_is_its_own(depot: RunningDepot, tmp_path: Path):
    settings = enroll(depot.url, depot.token("b1"), tmp_path / "boards/b1")
    folder = settings.parent
    assert {file.name for file in folder.iterdir()} == {"ca.crt", "client.pem", "edgerl.toml", "root.pub"}
    assert stat.S_IMODE((folder / "client.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert TlsFiles(folder / "ca.crt", folder / "client.pem", folder / "client.pem").name() == "b1"
    key = (folder / "client.pem").read_bytes().split(b"-----END")[0]
    assert [path for path in depot.root.rglob("*") if path.is_file() and key[40:] in path.read_bytes()] == []
    assert (folder / "root.pub").read_bytes() == (depot.root / "keys/root.pub").read_bytes()


def test_of_a_csr_only_the_key_counts(depot: RunningDepot):
    key = ec.generate_private_key(ec.SECP256R1())
    status, answer = depot.post("/enroll", wish(depot, csr(key, name="learner")))
    assert status == 200
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert certificate.subject.rfc4514_string() == "CN=b1"
    assert certificate.public_key() == key.public_key()
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


@pytest.mark.parametrize("kind", ["rsa", "other curve", "garbage", "certificate", "forged"])
def test_a_csr_that_is_none_uses_no_token_up(depot: RunningDepot, kind: str):
    good = csr(ec.generate_private_key(ec.SECP256R1()))
    bad = {
        "rsa": csr(rsa.generate_private_key(65_537, 2048)),
        "other curve": csr(ec.generate_private_key(ec.SECP384R1())),
        "garbage": "no PEM",
        "certificate": (depot.root / "authority/ca.crt").read_text(),
        "forged": forged(good),
    }[kind]
    secret, before = depot.token("b1").secret, depot.issued()
    body = {"board_id": "b1", "secret": secret, "csr": bad}
    status, answer = depot.post("/enroll", json.dumps(body).encode())
    assert (status, "certificate signing request" in answer["problem"]) == (403, True)
    assert depot.issued() == before
    assert depot.post("/enroll", json.dumps(body | {"csr": good}).encode())[0] == 200


def test_a_folder_that_is_there_costs_no_token(depot: RunningDepot, tmp_path: Path):
    token = depot.token("b1")
    (tmp_path / "b1").mkdir()
    with pytest.raises(ProgramError, match="is there already"):
        enroll(depot.url, token, tmp_path / "b1")
    assert [*(tmp_path / "b1").iterdir()] == []
    enroll(depot.url, token, tmp_path / "elsewhere")


def test_a_refusal_leaves_no_file(depot: RunningDepot, tmp_path: Path):
    with pytest.raises(ProgramError, match="has expired"):
        enroll(depot.url, depot.token("b1", minutes=0.0), tmp_path / "boards/b1")
    assert [*(tmp_path / "boards").iterdir()] == []


def test_a_depot_under_another_name_is_refused(depot: RunningDepot, tmp_path: Path):
    enroll(f"https://localhost:{depot.port}", depot.token("b1"), tmp_path / "b1")
    token = depot.token("b2")
    with pytest.raises(ProgramError, match="edgerl depot run --host") as refused:
        enroll(f"https://127.1:{depot.port}", token, tmp_path / "b2")  # the same address, which its certificate lacks
    assert refused.value.exit_code == ExitCode.CERTIFICATE_REFUSED
    enroll(depot.url, token, tmp_path / "b2")


# --- renewal


def test_a_board_renews_without_a_token_and_then_has_another_key(depot: RunningDepot, tmp_path: Path):
    settings = enroll(depot.url, depot.token("b1"), tmp_path / "b1")
    before = (tmp_path / "b1/client.pem").read_bytes()
    renew(depot.url, settings)
    after = (tmp_path / "b1/client.pem").read_bytes()
    assert before.split(b"-----END")[0] != after.split(b"-----END")[0]
    renew(depot.url, settings)  # with the new one
    assert [entry["name"] for entry in depot.audited("renewed")][-2:] == ["b1", "b1"]


def test_a_revoked_board_renews_no_more_until_it_enrolls_anew(depot: RunningDepot, tmp_path: Path):
    settings = enroll(depot.url, depot.token("b1"), tmp_path / "b1")
    Enrolment(depot.root).revoke("b1")
    before = (tmp_path / "b1/client.pem").read_bytes()
    with pytest.raises(ProgramError, match="is revoked: enroll anew") as refused:
        renew(depot.url, settings)
    assert refused.value.exit_code == ExitCode.ENROLMENT_REFUSED
    assert (tmp_path / "b1/client.pem").read_bytes() == before
    renew(depot.url, enroll(depot.url, depot.token("b1"), tmp_path / "again"))
    with pytest.raises(ProgramError, match="is revoked"):
        renew(depot.url, settings)


def test_who_shows_no_certificate_or_a_programs_renews_nothing(depot: RunningDepot, tmp_path: Path):
    body = json.dumps({"csr": csr(ec.generate_private_key(ec.SECP256R1()))}).encode()
    assert depot.post("/renew", body)[0] == 401
    manager = depot.root / "manager"
    both = tmp_path / "manager.pem"
    both.write_bytes((manager / "client.key").read_bytes() + (manager / "client.crt").read_bytes())
    status, answer = depot.post("/renew", body, shown=both)
    assert (status, "is a program" in answer["problem"]) == (403, True)


def test_a_board_of_another_fleet_renews_nothing(depot: RunningDepot, tmp_path: Path):
    FleetFolder.create(tmp_path / "other", fleet="home", hosts=["127.0.0.1"])
    files = FleetFolder(tmp_path / "other").enroll("b1")
    both = tmp_path / "stranger.pem"
    both.write_bytes((files / "client.key").read_bytes() + (files / "client.crt").read_bytes())
    with pytest.raises(OSError, match=r"(?i)unknown.ca|reset|broken|closed|eof"):
        depot.post("/renew", b"{}", shown=both)


def test_a_board_cannot_have_certificates_without_end(depot: RunningDepot, tmp_path: Path):
    settings = enroll(depot.url, depot.token("b1"), tmp_path / "b1")
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(ProgramError, match="too many tries"))
        for _ in range(20):
            renew(depot.url, settings)


# --- limits


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"\xff" * 10, 400),
        (b'{"board_id": "b1"}', 400),
        (b'{"board_id": "b1", "secret": "x", "csr": "", "more": 1}', 400),
        (b"[" * MAX_REQUEST_BYTES, 400),
        (b" " * (MAX_REQUEST_BYTES + 1), 413),
        (b"x" * 20_000_000, 413),
    ],
    ids=["empty", "list", "bytes", "missing", "unknown", "deep", "large", "huge"],
)
def test_what_is_no_wish_is_turned_away(depot: RunningDepot, body: bytes, status: int):
    try:
        assert depot.post("/enroll", body)[0] == status
    except OSError:
        assert status == 413  # it did not want to hear the rest
    assert depot.audited("enrolled") == []
    assert "BEGIN" in depot.ask(depot.token("b1"))


def test_who_holds_all_connections_keeps_others_out_only_while_he_does(depot: RunningDepot):
    body = wish(depot, csr(ec.generate_private_key(ec.SECP256R1())))
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(depot.connect())
        with depot.connect() as late:
            late.sendall(b"GET /trust HTTP/1.1\r\nHost: depot\r\n\r\n")
            assert b" 503 " in late.recv(1000)
    assert depot.post("/enroll", body)[0] == 200


@pytest.mark.parametrize(("version", "is_spoken"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_only_tls_1_2_and_newer_are_spoken(depot: RunningDepot, version: str, is_spoken: bool):
    said = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{depot.port}", version, "-cipher", "DEFAULT@SECLEVEL=0"],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (said.returncode == 0) == is_spoken


def test_a_second_depot_on_the_port_is_told_so(depot: RunningDepot):
    command = [EDGERL, "depot", "run", "--dir", depot.root, "--bind", "127.0.0.1", "--port", str(depot.port)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == ExitCode.PORT_IN_USE
    assert "cannot listen" in said.stderr


# --- the command line beside it


def test_command_line_and_depot_write_one_folder_at_a_time(depot: RunningDepot):
    def by_depot(index: int) -> str:
        return depot.ask(depot.token(f"depot-{index}"))

    def by_hand(index: int) -> None:
        subprocess.run([EDGERL, "enroll", f"hand-{index}", "--dir", depot.root], check=True, capture_output=True)
        subprocess.run(
            [EDGERL, "broker", "revoke", f"hand-{index}", "--dir", depot.root], check=True, capture_output=True
        )

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(by_depot, index) for index in range(8)]
        done = [pool.submit(by_hand, index) for index in range(4)]
        assert all("BEGIN CERTIFICATE" in future.result() for future in asked)
        assert [future.result() for future in done] == [None] * 4
    folder = FleetFolder(depot.root)
    assert folder.authority.revoked_names() == [f"hand-{index}" for index in range(4)]
    rules = (folder.broker / "acl").read_text()
    assert [line for line in rules.splitlines() if line.startswith("user hand-")] == [
        f"user hand-{i}" for i in range(4)
    ]
    assert folder.audit.verify() == []
    assert len(depot.audited("enrolled")) == 12


def test_a_board_without_the_command_line_enrolls(depot: RunningDepot, tmp_path: Path):
    command = [sys.executable, "-m", "edge_actor.enrol", "--depot", depot.url, "--token", "-"]
    token = str(depot.token("b1"))
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, input=token)
    assert "edgerl act -c b1/edgerl.toml" in said.stdout
    unwanted = "('typer', 'rich', 'starlette', 'uvicorn')"
    code = f"import edge_actor.enrol, sys; print([m for m in {unwanted} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("board", ["learner", "depot", "a/b", "", "../x"])
def test_no_token_is_made_for_a_name_that_is_not_a_boards(depot: RunningDepot, board: str):
    with pytest.raises(ProgramError) as refused:
        depot.token(board)
    assert refused.value.exit_code == ExitCode.USAGE


def test_no_token_is_made_for_a_board_that_has_a_certificate(depot: RunningDepot):
    depot.ask(depot.token("b1"))
    with pytest.raises(ProgramError, match="edgerl broker revoke b1"):
        depot.token("b1")


def test_it_ends_when_it_is_told_so_as_soon_as_it_is_there(tmp_path: Path):
    FleetFolder.create(tmp_path / "fleet", fleet="home", hosts=["127.0.0.1"])
    for _ in range(3):  # between its first word and its server's start lies a moment in which no signal may be lost
        with running_depot(tmp_path / "fleet", tmp_path) as depot:
            pass
        assert depot.process.returncode == 0, depot.said()
