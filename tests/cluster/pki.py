"""Certificates of a throw-away cluster: one authority, elliptic curve keys, valid for some days."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_FOR = dt.timedelta(days=30)
# Clocks of machines and containers may differ a little.
BACKDATED_BY = dt.timedelta(minutes=5)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> None:
        """Writes NAME.crt and NAME.key (the latter for this user alone)."""
        (folder / f"{name}.crt").write_bytes(self.certificate)
        write_secret(folder / f"{name}.key", self.key)


class Authority:
    """The cluster's certificate authority."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _name("tandem-cluster", ())
        self._certificate = (
            _builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pair(self) -> KeyPair:
        """The authority's own certificate and key."""
        return _pair(self._certificate, self._key)

    def client(self, user: str, groups: Iterable[str] = ()) -> KeyPair:
        """A certificate that the API server takes as `user`, member of `groups`."""
        return self._issue(_name(user, groups), usage=ExtendedKeyUsageOID.CLIENT_AUTH, names=())

    def server(self, name: str, hosts: Iterable[str]) -> KeyPair:
        """A server's certificate; each of `hosts` is an IP address or a DNS name."""
        return self._issue(_name(name, ()), usage=ExtendedKeyUsageOID.SERVER_AUTH, names=hosts)

    def _issue(self, subject: x509.Name, *, usage: x509.ObjectIdentifier, names: Iterable[str]) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, self._certificate.subject, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if alternatives := [_alternative(name) for name in names]:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return _pair(builder.sign(self._key, hashes.SHA256()), key)


def signing_key_pair() -> tuple[bytes, bytes]:
    """A private and a public key (PEM) for ServiceAccount tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _private_pem(key), public


def write_secret(path: Path, content: bytes) -> None:
    """Writes a file that only this user can read."""
    path.touch(mode=0o600)
    path.write_bytes(content)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED_BY)
        .not_valid_after(now + VALID_FOR)
    )


def _name(common_name: str, organizations: Iterable[str]) -> x509.Name:
    """Kubernetes reads the user from the common name and the groups from the organizations."""
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_private_pem(key))


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # "EC PRIVATE KEY": the form that the API server reads for ServiceAccount tokens.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
