"""How a board with a key of its own becomes a member: a token for it, a certificate for that token, and renewal.

What the depot does, without the network. Everything here is audited; nothing here is ever shown a private key.
"""

import re
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleet_manager.authority import PublicKey
from fleet_manager.broker_files import ROLES
from fleet_manager.fleet_folder import FleetFolder
from fleet_manager.token_book import Refused, TokenBook
from fleet_protocol.enrolment import Admission, EnrollRequest, EnrolmentToken, FleetTrust, certificate_fingerprint
from fleet_protocol.exit_codes import ExitCode, ProgramError

_UNPRINTABLE: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Enrolment:
    """The fleet's door for boards that make their own keys.

    The folder is read anew for each of them: the command line may change it at any time.

    Args:
        root: The folder that `edgerl broker init` has made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def trust(self) -> FleetTrust:
        """What boards are to trust."""
        return FleetFolder(self._root).trust

    def make_token(self, board_id: str, *, minutes: float) -> EnrolmentToken:
        """Make a token; earlier ones of this board count no more.

        Raises:
            ProgramError: The id is none, or it has a certificate that is valid.
        """
        folder = FleetFolder(self._root)
        folder.check_board(board_id)
        with folder.alone():
            if folder.authority.has_valid(board_id):
                raise ProgramError(
                    ExitCode.STATE_UNUSABLE,
                    f"board {board_id!r} has a certificate that is valid; was it lost or stolen, `edgerl broker revoke "
                    f"{board_id}` first",
                )
            token = EnrolmentToken.new(board_id, trust=folder.trust)
            folder.audit.append("token_made", name=board_id, minutes=minutes)
            _tokens(folder).add(token, valid_s=minutes * 60.0)
        return token

    def revoke(self, name: str) -> int:
        """Revoke all certificates of a name, and its tokens; returns how many certificates there were.

        Raises:
            ProgramError: There is none that is not revoked.
        """
        folder = FleetFolder(self._root)
        _tokens(folder).void(name)
        return folder.revoke(name)

    def enroll(self, request: EnrollRequest, *, address: str) -> Admission:
        """Give the certificate that a token promises.

        Args:
            request: The token, and the public key in a CSR.
            address: Where it came from, for the audit.

        Raises:
            Refused: The CSR is none, or the token does not count.
        """
        folder = FleetFolder(self._root)
        with folder.alone():
            try:
                public_key = _public_key(request.csr)  # first: a token is not used up by a broken request
                _tokens(folder).claim(request.board_id, request.secret)
            except Refused as error:
                folder.audit.append("refused", name=_printable(request.board_id), address=address, reason=error.reason)
                raise
            return _admit(folder, request.board_id, public_key, deed="enrolled", address=address)

    def renew(self, certificate: x509.Certificate, csr: str, *, address: str) -> Admission:
        """Give a board another certificate for its name.

        Args:
            certificate: What it has shown in a handshake that demanded one of the fleet's CA.
            csr: Its new public key.
            address: Where it came from, for the audit.

        Raises:
            Refused: The certificate is revoked, or not a board's; or the CSR is none.
        """
        folder = FleetFolder(self._root)
        name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        with folder.alone():
            try:
                _check_may_renew(folder, name, certificate)
                public_key = _public_key(csr)
            except Refused as error:
                folder.audit.append("refused", name=_printable(name), address=address, reason=error.reason)
                raise
            return _admit(folder, name, public_key, deed="renewed", address=address)


def _check_may_renew(folder: FleetFolder, name: str, certificate: x509.Certificate) -> None:
    if folder.authority.is_revoked(certificate):
        raise Refused("revoked", f"the certificate of {name!r} is revoked: enroll anew, with a token")
    if name in ROLES:
        raise Refused("not_a_board", f"{name!r} is a program: its operator renews it (`edgerl broker renew`)")


def _admit(folder: FleetFolder, name: str, public_key: PublicKey, *, deed: str, address: str) -> Admission:
    admission = folder.admit(name, public_key)
    folder.audit.append(deed, name=name, address=address, certificate=certificate_fingerprint(admission.certificate))
    return admission


def _tokens(folder: FleetFolder) -> TokenBook:
    return TokenBook(folder.private / "tokens.db", fleet=folder.fleet)


def _public_key(csr: str) -> PublicKey:
    """The key of a CSR whose owner has the private half; what else it wishes for is not looked at."""
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key, is_signed = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused("bad_csr", "expected a certificate signing request in PEM") from error
    if not (is_signed and isinstance(key, PublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise Refused("bad_csr", "expected a certificate signing request for an ECDSA P-256 key, signed with it")
    return key


def _printable(name: str) -> str:
    return _UNPRINTABLE.sub("?", name)[:63]
