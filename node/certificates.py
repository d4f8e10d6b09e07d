"""Who is a member: certificates that only holders of the cluster key can make, and TLS contexts that ask for them.

The key makes the private key of a certificate authority, the same one on every device, so nobody has to be asked to
sign. Each process makes a key pair of its own and signs a certificate for it that names its node. A certificate says no
more than "whoever made this has the cluster key": host names are not checked, since devices change their addresses.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from .cluster_key import ClusterKey

_CA_NAME = "edgecache cluster"
# A device without a battery wakes up in 1970. RFC 5280, 4.1.2.5: this is how a certificate says that it never ends.
_VALID_FROM, _VALID_TO = datetime(1950, 1, 1), datetime(9999, 12, 31, 23, 59, 59)


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """TLS 1.3 with certificates on both sides, for connections that are dialled and those that are answered."""

    clients: Sequence[tuple[str, ssl.SSLContext]]
    """A key's name, which the dialer says as the server's name, and its context; the key to try first is first."""
    server: ssl.SSLContext
    """Answers by the key that the dialer names, and one who names none that is here, by the first."""


def contexts(keys: Sequence[ClusterKey], node: str) -> TlsContexts:
    """Contexts that prove to be `node`, and accept only who has one of `keys`."""
    clients, servers = [], {}
    for key in keys:
        ca_key, own_key = Ed25519PrivateKey.from_private_bytes(key.ca_seed), Ed25519PrivateKey.generate()
        ca = _signed(_CA_NAME, ca_key.public_key(), ca_key, is_ca=True).public_bytes(Encoding.DER)
        own = _signed(node, own_key.public_key(), ca_key, is_ca=False).public_bytes(Encoding.PEM)
        chain = own_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + own
        clients.append((key.name, _context(ssl.PROTOCOL_TLS_CLIENT, ca, chain)))
        servers[key.name] = _context(ssl.PROTOCOL_TLS_SERVER, ca, chain)

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, named: str | None, first: ssl.SSLContext) -> None:
        connection.context = servers.get(named or "", first)

    server = servers[keys[0].name]
    server.sni_callback = choose
    return TlsContexts(clients, server)


def _signed(name: str, public_key: Ed25519PublicKey, ca_key: Ed25519PrivateKey, *, is_ca: bool) -> x509.Certificate:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(_CA_NAME))
        .public_key(public_key)
        .serial_number(1 if is_ca else x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_TO)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, **usage), critical=True)
    )
    if not is_ca:
        both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(ca_key, None)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _context(side: int, ca: bytes, chain: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca)
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # connections are kept, not resumed
    # The standard library reads certificates from files only. This one is in memory, so that the key is on no disk.
    with os.fdopen(os.memfd_create("edgecache certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(chain)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
