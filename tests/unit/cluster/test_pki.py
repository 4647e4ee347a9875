"""Certificates: the names a server may be called by, the user a client is taken for, all from one authority."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.kubeconfig import Endpoint, user_file_name, write_kubeconfig
from tests.cluster.pki import Authority, KeyPair, signing_key_pair


def certificate(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def usages(pair: KeyPair) -> list[x509.ObjectIdentifier]:
    return list(certificate(pair).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_server_is_known_by_addresses_and_names() -> None:
    server = Authority().server("kube-apiserver", ["10.96.0.1", "127.0.0.1", "kubernetes.default.svc"])
    names = certificate(server).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.96.0.1"),
        ipaddress.ip_address("127.0.0.1"),
    ]
    assert names.get_values_for_type(x509.DNSName) == ["kubernetes.default.svc"]
    assert usages(server) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_client_carries_user_and_groups() -> None:
    client = Authority().client("system:node:node1", ["system:nodes", "more"])
    subject = certificate(client).subject
    assert [name.value for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["system:node:node1"]
    groups = {name.value for name in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)}
    assert groups == {"system:nodes", "more"}
    assert usages(client) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_certificates_are_signed_by_their_own_authority_only() -> None:
    mine, other = Authority(), Authority()
    issued = certificate(mine.client("someone"))
    issued.verify_directly_issued_by(certificate(mine.pair))
    with pytest.raises(InvalidSignature):
        issued.verify_directly_issued_by(certificate(other.pair))


def test_token_keys_belong_together() -> None:
    private, public = signing_key_pair()
    assert load_pem_private_key(private, None).public_key() == load_pem_public_key(public)


def test_keys_on_disk_are_for_this_user_alone(tmp_path: Path) -> None:
    Authority().client("someone").write(tmp_path, "someone")
    assert (tmp_path / "someone.key").stat().st_mode & 0o777 == 0o600


def test_kubeconfig_says_where_the_cluster_is(tmp_path: Path) -> None:
    authority = Authority()
    endpoint = Endpoint(url="https://127.0.0.1:6443", authority=authority.pair.certificate)
    path = write_kubeconfig(tmp_path / user_file_name("system:a/b"), endpoint=endpoint, credentials="a-token")
    assert path.name == "system_a_b.kubeconfig"
    assert Endpoint.of(path) == endpoint
    assert path.stat().st_mode & 0o777 == 0o600
