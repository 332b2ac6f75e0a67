"""A board's own key and what it asks for it: the private half is made here, and never leaves the machine."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class BadIdentity(ValueError):
    """A certificate that is not the one that was asked for; says why."""


class NewIdentity:
    """A new key, waiting for its certificate.

    Args:
        name: The name that the certificate shall have.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())

    def request_pem(self) -> str:
        """The certificate signing request: it proves that we have the key."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self._key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def with_certificate(self, certificate_pem: str, *, ca_pem: str) -> bytes:
        """Key and certificate in one file: so they are replaced together, or not at all.

        Args:
            certificate_pem: What the depot answered.
            ca_pem: The fleet's CA, which must have signed it.

        Raises:
            BadIdentity: It is of another key, name or CA.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
            names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
            is_ours = certificate.public_key() == self._key.public_key()
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise BadIdentity(f"expected a certificate of the fleet's CA ({type(error).__name__}: {error})") from error
        if not is_ours:
            raise BadIdentity("the certificate is for another key than ours")
        if names != [self._name]:
            raise BadIdentity(f"expected a certificate for {self._name!r}, got one for {names}")
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key + certificate.public_bytes(serialization.Encoding.PEM)
