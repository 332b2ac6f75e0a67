"""A depot as a process, and boards that come to it."""

import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_actor.enrol import DepotClient, context_for
from edgerl.broker import free_port
from fleet_manager.enrolment import Enrolment
from fleet_manager.fleet_folder import FleetFolder
from fleet_protocol.client_identity import NewIdentity
from fleet_protocol.enrolment import ENROLL_PATH, EnrollRequest, EnrolmentToken
from fleet_protocol.exit_codes import ProgramError

EDGERL = Path(sys.executable).with_name("edgerl")


class RunningDepot:
    """The depot of a fleet's folder."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self.log = log
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        command = [EDGERL, "depot", "run", "--dir", root, "--bind", "127.0.0.1", "--port", str(self.port)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def said(self) -> str:
        """All that it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def token(self, board_id: str, *, minutes: float = 60.0) -> EnrolmentToken:
        """A token of this fleet."""
        return Enrolment(self.root).make_token(board_id, minutes=minutes)

    def ask(self, token: EnrolmentToken) -> str:
        """Ask for a certificate as a board does; returns it, or why there is none."""
        identity, client = NewIdentity(token.board_id), DepotClient(self.url)
        wish = EnrollRequest(board_id=token.board_id, secret=token.secret, csr=identity.request_pem())
        try:
            trust = client.trust(token)
            admission = client.ask(ENROLL_PATH, wish, context_for(trust))
        except ProgramError as error:
            return str(error)
        identity.with_certificate(admission.certificate, ca_pem=trust.ca)
        return admission.certificate

    def trusting(self) -> ssl.SSLContext:
        """A client's TLS, without a certificate of its own."""
        return ssl.create_default_context(cafile=str(self.root / "authority/ca.crt"))

    def connect(self) -> ssl.SSLSocket:
        """A connection that has said nothing yet."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return self.trusting().wrap_socket(connection, server_hostname="127.0.0.1")

    def post(self, path: str, body: bytes, *, shown: Path | None = None) -> tuple[int, dict[str, Any]]:
        """Send any bytes, as who has the file `shown`; returns status and answer."""
        context = self.trusting()
        if shown is not None:
            context.load_cert_chain(shown)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def audited(self, kind: str) -> list[dict[str, Any]]:
        """The audit's entries of a kind."""
        entries = FleetFolder(self.root).audit.entries()
        return [json.loads(entry.details) for entry in entries if entry.kind == kind]

    def issued(self) -> int:
        """How many certificates there are."""
        return len([*(self.root / "authority/issued").glob("*.crt")])


@contextmanager
def running_depot(root: Path, folder: Path) -> Iterator[RunningDepot]:
    """Start a depot, and end it."""
    depot = RunningDepot(root, folder / f"depot-of-{root.name}.log")
    try:
        deadline = time.monotonic() + 60
        while "The depot is at" not in depot.said():
            assert depot.process.poll() is None, depot.said()
            assert time.monotonic() < deadline, depot.said()
            time.sleep(0.02)
        yield depot
    finally:
        depot.process.terminate()
        assert depot.process.wait(30) == 0, depot.said()
