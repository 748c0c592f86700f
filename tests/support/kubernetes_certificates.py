"""The keys and certificates of one control plane, made in memory and written to its folder.

`kubernetes.py` and the one-node cluster are the callers. The keys are worth nothing outside the test: they are made
anew at each start and are removed with the folder.
"""

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=2)
# A client whose clock is a little behind must not find the certificate to be of the future.
SKEW = timedelta(hours=1)
# Python 3.13 and later refuse an authority that does not say it may sign.
AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Pair:
    """A private key and its certificate, as PEM files."""

    key: Path
    certificate: Path


@dataclass(frozen=True)
class Certificates:
    """All that the servers and the administrator of one control plane present to each other."""

    authority: Path
    server: Pair
    administrator: Pair
    service_account_key: Path


def make_certificates(folder: Path, *, addresses: Sequence[str] = (), names: Sequence[str] = ()) -> Certificates:
    """Write a fresh authority, and what it signs, into `folder`.

    The API server is reached on the loopback address, and by the given addresses and names.
    """
    folder.mkdir()
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("perdure-test-authority")
    authority = (
        _builder(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(AUTHORITY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    authority_path = folder / "authority.crt"
    authority_path.write_bytes(authority.public_bytes(Encoding.PEM))

    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())

    def signed(file: str, subject: x509.Name, usage: x509.ObjectIdentifier, names: Sequence[x509.GeneralName]) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(subject, authority_name, key)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(issued_by, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate_path = folder / f"{file}.crt"
        certificate_path.write_bytes(builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return Pair(_write_key(folder / f"{file}.key", key), certificate_path)

    known_as: list[x509.GeneralName] = [
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", *addresses)),
        *(x509.DNSName(name) for name in ("localhost", *names)),
    ]
    return Certificates(
        authority=authority_path,
        server=signed("server", _name("kube-apiserver"), ExtendedKeyUsageOID.SERVER_AUTH, known_as),
        administrator=signed(
            "administrator", _name("administrator", "system:masters"), ExtendedKeyUsageOID.CLIENT_AUTH, []
        ),
        service_account_key=_write_key(folder / "service-account.key", ec.generate_private_key(ec.SECP256R1())),
    )


def write_kubeconfig(path: Path, url: str, authority: Path, user: Pair | str) -> Path:
    """Write a kubeconfig for a user who has a certificate or, given as a string, a token; everything is inside it."""
    if isinstance(user, str):
        credentials = {"token": user}
    else:
        credentials = {"client-certificate-data": _encoded(user.certificate), "client-key-data": _encoded(user.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority-data": _encoded(authority)}}],
        "users": [{"name": "test", "user": credentials}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    path.touch(mode=0o600)
    # The API server takes the public half of a service account key from this format, and not from PKCS 8.
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
