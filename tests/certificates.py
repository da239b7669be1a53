"""Keys and certificates for tests: an authority of our own, and whom it vouches for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
DOCUMENTS = ObjectIdentifier("1.3.6.1.5.5.7.3.36")


@dataclass(frozen=True)
class Party:
    """Who has a key and a certificate."""

    key: Any
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, format: PrivateFormat = PrivateFormat.PKCS8, password: bytes | None = None) -> bytes:
        secret = NoEncryption() if password is None else BestAvailableEncryption(password)
        return self.key.private_bytes(Encoding.PEM, format, secret)


def party(
    name: str,
    issuer: Party | None = None,
    key: Any = None,
    authority: bool = False,
    purpose: ObjectIdentifier | None = EMAIL,
    signs: bool = True,
    days: tuple[float, float] = (-1, 30),
) -> Party:
    """issuer: who vouches for it, by default itself. days: from when to when it is valid, counted from now."""
    key = key or KEYS["es256"]()
    issuer_key = issuer.key if issuer else key
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"Studio of {name}"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now = datetime.now(timezone.utc)
    usage = {"digital_signature": signs and not authority, "key_cert_sign": authority, "crl_sign": authority}
    rest = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(x509.KeyUsage(**usage, **dict.fromkeys((*rest, "decipher_only"), False)), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    )
    if purpose is not None and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
    without_hash = isinstance(issuer_key, ed25519.Ed25519PrivateKey)
    return Party(key, builder.sign(issuer_key, None if without_hash else hashes.SHA256()))


def identity(folder: Path, name: str = "Jo Maker") -> Path:
    """A PEM file that can sign: a key, its certificate, and that of a test authority."""
    root = party("Test Root", authority=True)
    who = party(name, root)
    path = folder / "identity.pem"
    path.write_bytes(who.key_pem() + who.pem + root.pem)
    return path
