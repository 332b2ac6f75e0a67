"""The depot: boards come here with a token and go with a certificate, over HTTPS. Read `Depot._enroll` first.

Three paths (`fleet_protocol/enrolment.py`): what boards are to trust, for everybody; a certificate for a token; another
one for a certificate that is shown in the handshake. Whatever else comes is turned away before it is looked into: by
size, by time, and by the number of wrong tokens from one address. Tokens, keys and requests stand in no log.
"""

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import uvicorn
from cryptography import x509
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from fleet_manager.backoff import Backoff
from fleet_manager.enrolment import Enrolment
from fleet_manager.fleet_folder import FleetFolder
from fleet_manager.token_book import Refused
from fleet_protocol.enrolment import (
    ENROLL_PATH,
    MAX_REQUEST_BYTES,
    RENEW_PATH,
    TRUST_PATH,
    Admission,
    EnrollRequest,
    FleetTrust,
    Refusal,
    RenewRequest,
)
from fleet_protocol.exit_codes import ExitCode, ProgramError

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS: Final = 200
_CONNECTION_LIMIT_S: Final = 30.0
"""However slowly somebody speaks, so long a connection lasts."""
_GOODBYE_S: Final = 5
_PEER: Final = "certificate"

_Answer = Admission | FleetTrust | Refusal
WishT = TypeVar("WishT", EnrollRequest, RenewRequest)


class _TurnedAway(Exception):
    """A request that is answered before it is looked into."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Depot:
    """Answers boards.

    Args:
        root: The folder that `edgerl broker init` has made.

    Attributes:
        failure: A mistake of ours; the server ends with it.
    """

    def __init__(self, root: Path) -> None:
        self._enrolment = Enrolment(root)
        self._backoff = Backoff(time.monotonic)
        self.failure: Exception | None = None
        self.stop: Callable[[], None] = lambda: None

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route(TRUST_PATH, self._answered(self._give_trust), methods=["GET"]),
                Route(ENROLL_PATH, self._answered(self._enroll), methods=["POST"]),
                Route(RENEW_PATH, self._answered(self._renew), methods=["POST"]),
            ]
        )

    async def _give_trust(self, _request: Request) -> FleetTrust:
        return await run_in_threadpool(self._enrolment.trust)

    async def _enroll(self, request: Request) -> Admission:
        address = _address(request)
        self._check_patience(address)
        wish = await _wish(request, EnrollRequest)
        try:
            admission = await run_in_threadpool(self._enrolment.enroll, wish, address=address)
        except Refused as error:
            if error.reason == "wrong_token":
                self._backoff.note(address)
            raise
        _log.info("enrolled %s from %s", wish.board_id, address)
        return admission

    async def _renew(self, request: Request) -> Admission:
        shown: bytes | None = getattr(request.state, _PEER, None)
        if shown is None:
            raise _TurnedAway(401, "expected the board's certificate in the TLS handshake, and there was none")
        certificate = x509.load_der_x509_certificate(shown)
        who = certificate.subject.rfc4514_string()
        self._check_patience(who)
        self._backoff.note(who)  # certificates are kept for ever: nobody shall have thousands
        wish = await _wish(request, RenewRequest)
        address = _address(request)
        admission = await run_in_threadpool(self._enrolment.renew, certificate, wish.csr, address=address)
        _log.info("renewed %s from %s", who, address)
        return admission

    def _check_patience(self, who: str) -> None:
        wait_s = self._backoff.wait_s(who)
        if wait_s > 0:
            raise _TurnedAway(429, f"too many tries; the next is answered in {wait_s:.0f} s")

    def _answered(self, grant: Callable[[Request], Awaitable[_Answer]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return _json(await grant(request), status=200)
            except Refused as error:
                _log.warning("refused %s at %s: %s", _address(request), request.url.path, error.reason)
                return _json(Refusal(problem=str(error)), status=403)
            except _TurnedAway as error:
                return _json(Refusal(problem=str(error)), status=error.status)
            except ProgramError as error:  # a full disk, say: the next one may succeed
                _log.error("%s", error)
                return _json(Refusal(problem="the depot cannot answer just now; its log says why"), status=503)
            except Exception as error:
                self.failure = error
                self.stop()
                raise

        return answer


class _Connection(H11Protocol):
    """Knows the peer's certificate, and ends in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the certificate over; uvicorn tells its applications nothing of it."""
        super().connection_made(transport)
        secured: ssl.SSLObject = transport.get_extra_info("ssl_object")
        self.app_state = {**self.app_state, _PEER: secured.getpeercert(binary_form=True)}
        self.loop.call_later(_CONNECTION_LIMIT_S, transport.abort)


def run_depot(root: Path, *, hosts: list[str], bind: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        root: The folder that `edgerl broker init` has made.
        hosts: Names and addresses under which boards reach the depot; empty = those of the broker.
        bind: The address to listen at.
        port: The port.
        started: Called, with an URL for boards, when it listens.

    Raises:
        ProgramError: There is no fleet in the folder, or the port is taken.
    """
    folder = FleetFolder(root)
    hosts = hosts or folder.hosts
    depot, files = Depot(root), folder.make_depot(hosts)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL  # a new board has none
    context.load_cert_chain(files / "server.crt", files / "server.key")
    config = uvicorn.Config(
        depot.app(),
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_REQUEST_BYTES,
        timeout_graceful_shutdown=_GOODBYE_S,
        ssl_context_factory=lambda _config, _default: context,
    )
    server = uvicorn.Server(config)
    depot.stop = lambda: setattr(server, "should_exit", True)
    for number in (signal.SIGINT, signal.SIGTERM):
        # For those that come before uvicorn listens to them; those that it has heard it raises again when it has ended.
        signal.signal(number, lambda _number, _frame: depot.stop())
    with _listening(bind, port) as listener:
        host = f"[{hosts[0]}]" if ":" in hosts[0] else hosts[0]
        started(f"https://{host}:{listener.getsockname()[1]}")
        server.run(sockets=[listener])
    if depot.failure is not None:
        raise depot.failure


def _listening(bind: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        return socket.create_server((bind, port), family=family, backlog=_MAX_CONNECTIONS)
    except OSError as error:
        raise ProgramError(ExitCode.PORT_IN_USE, f"cannot listen at {bind} port {port}: {error.strerror}") from error


async def _wish(request: Request, wish_type: type[WishT]) -> WishT:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise _TurnedAway(413, f"expected at most {MAX_REQUEST_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=wish_type)
    except (msgspec.DecodeError, UnicodeError) as error:
        # msgspec's sentences name fields, never values.
        raise _TurnedAway(400, f"expected a {wish_type.__name__} in JSON: {error}") from error


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def _json(answer: _Answer, *, status: int) -> Response:
    body: Any = msgspec.json.encode(answer)
    return Response(body, status_code=status, media_type="application/json", headers={"connection": "close"})
