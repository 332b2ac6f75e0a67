"""TLS between a program and the broker: its three files, and what each refusal means in plain words.

Both sides show a certificate of the fleet's own CA. A certificate's name is the board's id, and the broker takes all
rights from it. The files are read again for each connection, so that renewed ones count without a restart.
"""

import socket
import ssl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fleet_protocol.exit_codes import ExitCode, ProgramError

_ALERT_WAIT_S: Final = 1.0
"""With TLS 1.3 the broker judges our certificate after our part of the handshake; its alert comes later."""

# OpenSSL's numbers (X509_V_ERR_*): why we do not trust the broker.
_DISTRUST: Final[Mapping[int, str]] = {
    9: "the broker's certificate is not valid yet, says this machine's clock ({today}): set the clock",
    10: "the broker's certificate has expired, says this machine's clock ({today}): set the clock, or renew it there "
    "(`edgerl broker renew broker`)",
    62: "the broker's certificate is not for {host}: connect by a name or address that it was made for "
    "(`edgerl broker init --host`)",
    64: "the broker's certificate is not for {host}: connect by a name or address that it was made for "
    "(`edgerl broker init --host`)",
} | dict.fromkeys(
    (18, 19, 20, 21),
    "the broker's certificate is of another CA than the one in `ca`: take ca.crt of this broker's fleet, or check the "
    "address: somebody else may be answering there",
)
# Ends of OpenSSL's reasons: why the broker does not trust us, in an alert of its own.
_ALERTS: Final[Mapping[str, str]] = {
    "CERTIFICATE_REVOKED": "the broker refused our certificate: it is revoked; enroll this program anew",
    "CERTIFICATE_EXPIRED": "the broker refused our certificate: it has expired, or the broker's clock is wrong; "
    "renew it (`edgerl broker renew NAME`)",
    "UNKNOWN_CA": "the broker refused our certificate: it is of another CA than the broker's; enroll with this "
    "broker's fleet",
    "CERTIFICATE_REQUIRED": "the broker demands a certificate and got none: set `cert` and `key`",
    "BAD_CERTIFICATE": "the broker refused our certificate: it is not valid there (not begun, or of the wrong kind)",
    "UNSUPPORTED_CERTIFICATE": "the broker refused our certificate: it is not one for clients",
    "PROTOCOL_VERSION": "the broker speaks no TLS 1.2 or newer",
    "WRONG_VERSION_NUMBER": "no TLS is spoken there: is this the port for plain MQTT?",
}


class TlsRefused(ConnectionError):
    """One side refused the other's certificate, or TLS itself; says why and what to do."""


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which paho forgets to do."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - ssl's own signature
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a program shows, and whom it trusts.

    Attributes:
        ca: The fleet's CA, whose broker is trusted.
        cert: This program's certificate.
        key: Its private key, not encrypted.
    """

    ca: Path
    cert: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Read the files, for one connection.

        Raises:
            ProgramError: One is missing, cannot be read, or does not fit the others.
        """
        for field, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise ProgramError(ExitCode.CONFIG, f"{field} {path} cannot be read: {error.strerror}") from error
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
        except ssl.SSLError as error:
            raise ProgramError(ExitCode.CONFIG, f"ca {self.ca}: expected a certificate in PEM, got none") from error
        context.sslsocket_class = _ClosingSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key, password="")
        except ssl.SSLError as error:
            raise ProgramError(
                ExitCode.CONFIG,
                f"cert {self.cert} and key {self.key} do not fit ({error.reason or 'not PEM'}): expected a certificate "
                "and its own private key, not encrypted, both in PEM",
            ) from error
        return context

    def name(self) -> str:
        """The name in our own certificate: what the broker takes us for.

        Raises:
            ProgramError: The file holds no certificate with a name.
        """
        # A board without certificates never loads it: it takes longer to import than all else here together.
        from cryptography import x509  # noqa: PLC0415

        try:
            certificate = x509.load_pem_x509_certificate(self.cert.read_bytes())
            (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        except (OSError, ValueError) as error:
            raise ProgramError(ExitCode.CONFIG, f"cert {self.cert}: no certificate with one name ({error})") from error
        return str(name.value)


def explain_tls(error: OSError, *, host: str) -> str:
    """What went wrong in a handshake, and what to do; empty where TLS has nothing to do with it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        sentence = _DISTRUST.get(error.verify_code, f"the broker's certificate is not valid: {error.verify_message}")
        return sentence.format(host=host, today=datetime.now(UTC).date())
    if isinstance(error, ssl.SSLEOFError):
        return "the broker ended the TLS handshake: is this the port for plain MQTT?"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return next((said for end, said in _ALERTS.items() if reason.endswith(end)), f"TLS failed: {reason}")
    return ""


def find_refusal(files: TlsFiles, *, host: str, port: int, timeout_s: float) -> str:
    """Shake hands once more, only to hear why: an MQTT client loses the alert. Empty where the broker is content."""
    try:
        with (
            closing(socket.create_connection((host, port), timeout=timeout_s)) as plain,
            closing(files.context().wrap_socket(plain, server_hostname=host)) as connection,
        ):
            connection.settimeout(_ALERT_WAIT_S)
            connection.recv(1)
    except TimeoutError:
        return ""  # it waits for MQTT
    except ProgramError as error:
        return str(error)  # a file is being replaced
    except OSError as error:
        return explain_tls(error, host=host)
    return ""
