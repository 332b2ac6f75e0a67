"""`python -m edge_actor.enrol`: make this board's own key, and have the fleet's depot certify it.

The key is made here and stays here. The depot is known by the fingerprint in the token: first only what is
to be trusted is asked for, of whoever answers; the token's secret goes to nobody who has no certificate of that CA.
"""

import argparse
import http.client
import ssl
import sys
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from edge_actor.config import BoardSettings
from fleet_protocol.enrolment import (
    DEFAULT_DEPOT_PORT,
    ENROLL_PATH,
    MAX_ANSWER_BYTES,
    RENEW_PATH,
    TRUST_PATH,
    Admission,
    BadToken,
    EnrollRequest,
    EnrolmentToken,
    FleetTrust,
    Refusal,
    RenewRequest,
)
from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.private_files import write_private, write_public
from fleet_protocol.settings import load_settings
from fleet_protocol.tls import TlsFiles

if TYPE_CHECKING:
    from fleet_protocol.client_identity import NewIdentity

_TIMEOUT_S: Final = 30.0
_OK: Final = 200
_FROM_INPUT: Final = "-"


class DepotClient:
    """Speaks to one depot.

    Args:
        url: `https://HOST:PORT`.

    Raises:
        ProgramError: It is no such URL.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urllib.parse.urlsplit(""), None
        if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
            raise ProgramError(ExitCode.USAGE, f"--depot {url[:80]!r}: expected https://HOST:PORT")
        self._host, self._port, self._url = parts.hostname, port or DEFAULT_DEPOT_PORT, url

    def trust(self, token: EnrolmentToken) -> FleetTrust:
        """What the token's fingerprint is of.

        Raises:
            ProgramError: The depot does not answer, or shows something else.
        """
        anybody = ssl.create_default_context()
        anybody.check_hostname = False
        anybody.verify_mode = ssl.CERT_NONE  # what is asked for here is public, and checked below
        _, body = self._ask("GET", TRUST_PATH, None, anybody)
        try:
            trust = msgspec.json.decode(body, type=FleetTrust)
        except (msgspec.DecodeError, UnicodeError):
            trust = None
        if trust is None or trust.fingerprint() != token.fingerprint:
            raise ProgramError(
                ExitCode.CERTIFICATE_REFUSED,
                f"depot {self._url}: it is not of the fleet that the token names. Check the address and the token; "
                "somebody else may be answering there. The token was not shown",
            )
        return trust

    def ask(self, path: str, wish: EnrollRequest | RenewRequest, context: ssl.SSLContext) -> Admission:
        """Send a wish.

        Raises:
            ProgramError: It was refused, or what came is no answer.
        """
        status, body = self._ask("POST", path, msgspec.json.encode(wish), context)
        try:
            if status == _OK:
                return msgspec.json.decode(body, type=Admission)
            problem = msgspec.json.decode(body, type=Refusal).problem
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ProgramError(
                ExitCode.ENROLMENT_REFUSED, f"depot {self._url} answered {status}, and nothing that a depot says"
            ) from error
        raise ProgramError(ExitCode.ENROLMENT_REFUSED, f"depot {self._url}: {problem}")

    def _ask(self, method: str, path: str, body: bytes | None, context: ssl.SSLContext) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT_S, context=context)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER_BYTES)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            raise ProgramError(
                ExitCode.CERTIFICATE_REFUSED,
                f"depot {self._url}: TLS failed ({reason}). Is it reached by a name that it was started with "
                "(`edgerl depot run --host`), is this machine's clock right, and is our own certificate valid?",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ProgramError(
                ExitCode.NO_DEPOT, f"no depot answers at {self._url} ({error}); `edgerl depot run` starts it"
            ) from error
        finally:
            connection.close()


def context_for(trust: FleetTrust) -> ssl.SSLContext:
    """Trust this CA, and nobody else."""
    context = ssl.create_default_context(cadata=trust.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def enroll(url: str, token: EnrolmentToken, folder: Path) -> Path:
    """Enrol this board: the folder is there as a whole afterwards, or not at all.

    Args:
        url: The depot.
        token: What the operator gave.
        folder: Where the credentials go; there must be nothing yet.

    Returns:
        The settings to start with.

    Raises:
        ProgramError: It was refused, or the folder is in use; the token counts still unless the depot says otherwise.
    """
    if folder.exists():
        raise ProgramError(
            ExitCode.STATE_UNUSABLE, f"{folder} is there already: move it away, or choose another with --out"
        )
    from fleet_protocol.client_identity import NewIdentity  # noqa: PLC0415 - slow to import on a board

    depot, identity = DepotClient(url), NewIdentity(token.board_id)
    trust = depot.trust(token)
    wish = EnrollRequest(board_id=token.board_id, secret=token.secret, csr=identity.request_pem())
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made before the token is used up: a disk that is full must not cost it.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        new = Path(name) / folder.name
        new.mkdir(mode=0o700)
        admission = depot.ask(ENROLL_PATH, wish, context_for(trust))
        write_private(new / "client.pem", _identity_pem(identity, admission.certificate, trust.ca))
        write_public(new / "ca.crt", trust.ca.encode())
        write_public(new / "root.pub", trust.root_public.encode())
        write_public(new / "edgerl.toml", admission.settings.encode())
        load_settings(BoardSettings, "board", file=new / "edgerl.toml", environ={})
        new.rename(folder)
    return folder / "edgerl.toml"


def renew(url: str, config: Path) -> Path:
    """Get a new key and certificate for a board that has one that is valid; returns the file with both.

    Raises:
        ProgramError: It was refused, or these credentials were not made here.
    """
    settings = load_settings(BoardSettings, "board", file=config, environ={})
    if not settings.cert or settings.cert != settings.key:
        raise ProgramError(
            ExitCode.CONFIG,
            f"{config}: its key was not made on this board; its operator renews it (`edgerl broker renew`)",
        )
    from fleet_protocol.client_identity import NewIdentity  # noqa: PLC0415 - slow to import on a board

    files = TlsFiles(Path(settings.ca), Path(settings.cert), Path(settings.key))
    identity = NewIdentity(files.name())
    admission = DepotClient(url).ask(RENEW_PATH, RenewRequest(csr=identity.request_pem()), files.context())
    pem = _identity_pem(identity, admission.certificate, files.ca.read_text(encoding="ascii"))
    write_private(files.cert, pem)  # one file, so that key and certificate always fit
    return files.cert


def _identity_pem(identity: "NewIdentity", certificate: str, ca: str) -> bytes:
    from fleet_protocol.client_identity import BadIdentity  # noqa: PLC0415 - slow to import on a board

    try:
        return identity.with_certificate(certificate, ca_pem=ca)
    except BadIdentity as error:
        raise ProgramError(ExitCode.ENROLMENT_REFUSED, f"the depot's answer cannot be used: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Enrol or renew; returns the exit code."""
    flags = _parser().parse_args(arguments)
    try:
        if flags.renew:
            made = renew(flags.depot, flags.config or Path("edgerl.toml"))
            print(f"{made} holds a new key and certificate; a running board takes them at its next connection.")  # noqa: T201
            return 0
        token = EnrolmentToken.parse(sys.stdin.readline() if flags.token == _FROM_INPUT else flags.token or "")
        settings = enroll(flags.depot, token, flags.out or Path(token.board_id))
    except BadToken as error:
        print(f"edgerl enroll: --token: {error}", file=sys.stderr)  # noqa: T201
        return ExitCode.USAGE
    except ProgramError as error:
        print(f"edgerl enroll: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(f"{token.board_id} is enrolled. Start it: edgerl act -c {settings}")  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgerl enroll",
        description="Enrol this board at its fleet's depot: make a key, which stays here, and have it certified.",
        epilog="The operator makes the token: edgerl enroll BOARD --token. "
        "Example: python -m edge_actor.enrol --depot https://depot.local:8443 --token -",
    )
    parser.add_argument("--depot", required=True, metavar="URL", help="https://HOST:PORT")
    parser.add_argument(
        "--token", help="the operator's token; - reads it from the input, and no list of processes shows it"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to make (default: the board's id)")
    parser.add_argument("--renew", action="store_true", help="get a new key and certificate, with those of --config")
    parser.add_argument("-c", "--config", type=Path, help="with --renew: this board's edgerl.toml")
    return parser


if __name__ == "__main__":
    sys.exit(main())
