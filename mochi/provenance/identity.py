"""A person's key and certificates, in one PEM file: read and checked before anything is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MochiError
from .library import USAGES, import_c2pa

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

KEY = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
RSA_BITS = 2048
LARGEST = 2**20


@dataclass(frozen=True)
class Identity:
    """Who signs.

    Attributes:
        name: of the certificate.
        algorithm: the one that goes with the key, as C2PA names it: "es256", "ps256", "ed25519", ...
        chain: PEM of the certificate, and of those who vouch for it, each for the one before.
        key: PEM in PKCS #8, the only form that the library reads.
    """

    name: str
    algorithm: str
    chain: bytes
    key: bytes = field(repr=False)


def read_identity(path: Path) -> Identity:
    """Reads a PEM file that holds a key and its certificates, in any order.

    Raises MochiError that names the file, and says what is wrong with it.
    """
    import_c2pa()
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST)
    except OSError as error:
        raise MochiError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return _identity(data)
    except MochiError as error:
        raise MochiError(f"{path}: {error}") from error


def _identity(data: bytes) -> Identity:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = _key(data)
    algorithm = _algorithm(key)
    chain = _chain(key, _certificates(data))
    for certificate in chain:
        _check_time(certificate)
    _check_usage(chain[0])
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(name_of(chain[0]), algorithm, pem, secret)


def _key(data: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    keys = [match[0] for match in KEY.finditer(data)]
    if len(keys) != 1:
        found = "no private key is in it" if not keys else f"{len(keys)} private keys are in it"
        raise MochiError(f"{found}; it must hold one, and the certificates that go with it")
    try:
        return load_pem_private_key(keys[0], None)
    except TypeError as error:
        raise MochiError(
            "its private key is encrypted, and nobody is asked for a passphrase here; "
            "`openssl pkey -in FILE -out PLAIN` writes one that is not"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MochiError(f"its private key cannot be read ({error})") from error


def _algorithm(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= RSA_BITS:
        return "ps256"
    raise MochiError(
        f"C2PA has no signature for its private key; one on the curve P-256, P-384, P-521 or Ed25519, "
        f"or of RSA with {RSA_BITS} bits or more, can sign"
    )


def _certificates(data: bytes) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificate

    try:
        found = [load_pem_x509_certificate(match[0]) for match in CERTIFICATE.finditer(data)]
    except ValueError as error:
        raise MochiError(f"a certificate in it cannot be read ({error})") from error
    if not found:
        raise MochiError("no certificate is in it, only a private key; put the certificates of that key behind it")
    return found


def _chain(key: Any, certificates: Sequence[Certificate]) -> list[Certificate]:
    """The certificate of a key, and those who vouch for it, as far as they are there."""
    own = [certificate for certificate in certificates if certificate.public_key() == key.public_key()]
    if not own:
        raise MochiError("its private key belongs to none of its certificates")
    chain = [max(own, key=lambda certificate: certificate.not_valid_after_utc)]  # a renewed one goes first
    while not _vouches(chain[-1], chain[-1]):
        issuer = next((other for other in certificates if other not in chain and _vouches(other, chain[-1])), None)
        if issuer is None:
            break
        chain.append(issuer)
    if len(chain) == 1 and not _vouches(chain[0], chain[0]):
        raise MochiError(
            f"the certificate of who issued the one of {name_of(chain[0])!r} is not in it "
            f"({chain[0].issuer.rfc4514_string()}); put the chain behind it, as it came from there"
        )
    return chain


def _vouches(issuer: Certificate, certificate: Certificate) -> bool:
    """Whether a certificate is signed with the key of another one, or with its own."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_time(certificate: Certificate) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.now(timezone.utc)
    if now > ends:
        raise MochiError(f"the certificate of {name_of(certificate)!r} has expired, on {ends:%Y-%m-%d %H:%M} UTC")
    if now < begins:
        raise MochiError(f"the certificate of {name_of(certificate)!r} begins on {begins:%Y-%m-%d %H:%M} UTC only")


def _check_usage(certificate: Certificate) -> None:
    from cryptography.x509 import BasicConstraints, ExtendedKeyUsage, ExtensionNotFound, KeyUsage

    def extension(kind: Any) -> Any:
        try:
            return certificate.extensions.get_extension_for_class(kind).value
        except ExtensionNotFound:
            return None

    constraints, usage, purposes = map(extension, (BasicConstraints, KeyUsage, ExtendedKeyUsage))
    name = name_of(certificate)
    if constraints is not None and constraints.ca:
        raise MochiError(f"the certificate of {name!r} is one of an authority (CA), which vouches for others")
    if usage is None or not usage.digital_signature:
        raise MochiError(f"the certificate of {name!r} is not for digital signatures (its key usage)")
    if not {purpose.dotted_string for purpose in purposes or ()} & USAGES.keys():
        raise MochiError(
            f"the certificate of {name!r} is not for signing content: its extended key usage "
            f"must have one of {', '.join(f'{title} ({number})' for number, title in USAGES.items())}"
        )


def name_of(certificate: Certificate) -> str:
    """The common name of whom it is about, or all of its name where it has none."""
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()
