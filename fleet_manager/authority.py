"""The fleet's certificate authority: a folder with its key, what it has issued, and what it has revoked.

All keys are ECDSA P-256, which the slowest board shakes hands with in milliseconds. The cryptography is the library
`cryptography`'s; here is only decided what a certificate says.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet_protocol.exit_codes import ExitCode, ProgramError
from fleet_protocol.private_files import write_private, write_public

BEGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""A board without a clock starts in 1970, and must get in before it can learn the time. Revocation needs no dates."""
_VALID: Final = timedelta(days=20 * 365)
_BACKDATED: Final = timedelta(days=1)
"""A list of revocations that begins in the future shuts everybody out: the broker's clock may be behind ours."""

PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey


def new_key() -> PrivateKey:
    """A new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """A private key as PEM, not encrypted: programs start without a person."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class CertificateAuthority:
    """A CA in a folder; one process at a time issues or revokes.

    Args:
        folder: Where `create` has made it.

    Raises:
        ProgramError: There is none, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
            self._certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        except (OSError, ValueError) as error:
            raise ProgramError(
                ExitCode.STATE_UNUSABLE, f"no usable CA in {folder} ({error}); `edgerl broker init` makes one"
            ) from error
        if not isinstance(key, PrivateKey):
            raise ProgramError(ExitCode.STATE_UNUSABLE, f"{folder / 'ca.key'}: expected an ECDSA key")
        self._key = key

    @classmethod
    def create(cls, folder: Path, *, name: str, valid: timedelta = _VALID) -> "CertificateAuthority":
        """Make a CA; what was issued by an older one in this folder is forgotten."""
        key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(subject, subject, key.public_key(), valid=valid)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        for old in (folder / "issued").glob("*.crt"):
            old.unlink()
        (folder / "revoked.crl").unlink(missing_ok=True)
        write_private(folder / "ca.key", key_pem(key))
        write_public(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
        authority = cls(folder)
        authority._write_revocations([])
        return authority

    @property
    def certificate_pem(self) -> bytes:
        """The CA's certificate: what everybody trusts."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def revocations_pem(self) -> bytes:
        """The list of revoked certificates, signed: what the broker reads."""
        return (self._folder / "revoked.crl").read_bytes()

    def issue_server(
        self, public_key: PublicKey, *, name: str, hosts: Sequence[str], valid: timedelta = _VALID
    ) -> bytes:
        """A certificate (PEM) for a server.

        Args:
            public_key: The server's.
            name: Shown to people.
            hosts: Host names and IP addresses under which it is reached.
            valid: For so long from now.
        """
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue(public_key, name=name, usage="server", names=names, valid=valid)

    def issue_client(self, public_key: PublicKey, *, name: str, valid: timedelta = _VALID) -> bytes:
        """A certificate (PEM) for a client; the broker takes its rights from its name.

        Args:
            public_key: The client's; its private key may stay where it was made.
            name: A board's id, or a role.
            valid: For so long from now.
        """
        return self._issue(public_key, name=name, usage="client", names=None, valid=valid)

    def revoke(self, name: str) -> int:
        """Revoke all certificates of a name; returns how many there were that had not been before."""
        revoked = self._revoked()
        new = [certificate for certificate in self._issued(name) if certificate.serial_number not in revoked]
        self._write_revocations([*revoked, *(certificate.serial_number for certificate in new)])
        return len(new)

    def has_valid(self, name: str) -> bool:
        """Whether a name has a certificate that is not revoked."""
        revoked = self._revoked()
        return any(certificate.serial_number not in revoked for certificate in self._issued(name))

    def is_revoked(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate of ours is revoked."""
        return certificate.serial_number in self._revoked()

    def revoked_names(self) -> list[str]:
        """Names all of whose certificates are revoked, sorted."""
        revoked = self._revoked()
        names = {_name_of(certificate) for certificate in self._issued()}
        still_good = {_name_of(c) for c in self._issued() if c.serial_number not in revoked}
        return sorted(names - still_good)

    def _issue(
        self,
        public_key: PublicKey,
        *,
        name: str,
        usage: Literal["server", "client"],
        names: x509.SubjectAlternativeName | None,
        valid: timedelta,
    ) -> bytes:
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if usage == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(self._certificate.subject, subject, public_key, valid=valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        # Before anybody has it: what is not known here could never be revoked.
        write_public(self._folder / "issued" / f"{certificate.serial_number:040x}.crt", pem)
        return pem

    def _issued(self, name: str | None = None) -> list[x509.Certificate]:
        files = sorted((self._folder / "issued").glob("*.crt"))
        certificates = [x509.load_pem_x509_certificate(file.read_bytes()) for file in files]
        return [certificate for certificate in certificates if name in (None, _name_of(certificate))]

    def _revoked(self) -> list[int]:
        return [entry.serial_number for entry in x509.load_pem_x509_crl(self.revocations_pem)]

    def _write_revocations(self, serials: Sequence[int]) -> None:
        path = self._folder / "revoked.crl"
        begin = (datetime.now(UTC) - _BACKDATED).replace(microsecond=0)
        if path.is_file():  # OpenSSL takes the newest of the lists that it has read, in whole seconds
            begin = max(begin, x509.load_pem_x509_crl(path.read_bytes()).last_update_utc + timedelta(seconds=1))
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(begin)
            # As long as the CA: a list that has run out would shut the whole fleet out.
            .next_update(self._certificate.not_valid_after_utc)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.CRLNumber(int(begin.timestamp())), critical=False)
        )
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin).build()
            )
        write_public(path, builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _builder(
    issuer: x509.Name, subject: x509.Name, public_key: PublicKey, *, valid: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(datetime.now(UTC) + valid)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name_of(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
