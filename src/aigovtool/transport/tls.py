"""SSL contexts: TLS 1.3 only, ALPN `http/1.1`, strict chains, no resumption.

Rules:

1. A server asks for a client certificate and lets connections without one through (`CERT_OPTIONAL`): the
   route decides whether identity is needed. A certificate by a foreign authority ends the handshake.
2. OpenSSL ignores validity times of client certificates, because the enclave's clock is the borrower's. Our
   code compares them with a trusted time (`Connection.identity`), and answers with a typed error. As a client an
   enclave ignores them as well (`at_any_time`): what it believes of its custodian is signed by other keys.
3. No session tickets: every connection proves possession of its keys anew.
4. Private keys reach OpenSSL from memory. Python's `ssl` reads keys from a path only, so the path names an
   anonymous file in memory (`memfd_create`), or, where that does not exist (macOS), the reading end of a
   pipe under `/dev/fd`. No key file ever appears in a directory.
5. A context is not changed after it is made. To rotate authorities or certificates, make a new one and give
   it to `HttpServer.replace_tls`; connections that are open keep what they proved, and those whose client shows a
   certificate of an authority that is not accepted any more end after the answer under way.
"""

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey, key_to_pem
from aigovtool.crypto.x509 import is_issued_by, spki_sha256, to_pem
from aigovtool.errors import ConfigurationError

#: X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h); Python's enumeration does not name it.
_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
_ALPN: Final = ("http/1.1",)
_PIPE_BYTES: Final = 16 << 10  # what a pipe holds without a reader on every system


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server needs to accept connections: a context, and the pin of the key it proves."""

    context: ssl.SSLContext
    #: SHA-256 of the SubjectPublicKeyInfo, 32 bytes.
    spki_sha256: bytes
    #: DER certificates of those whose client certificates are accepted; None when none is asked for.
    client_authorities: tuple[bytes, ...] | None = None

    def accepts_fewer(self, than: "ServerTls") -> bool:
        """Return whether an authority that was accepted before is not accepted any more."""
        return bool(set(than.client_authorities or ()) - set(self.client_authorities or ()))

    def accepts(self, certificate: bytes | None) -> bool:
        """Return whether a client may stay that has shown this certificate, or none."""
        return certificate is None or any(is_issued_by(certificate, one) for one in self.client_authorities or ())


def server_context(chain: Sequence[bytes], key: TlsKey, client_authorities: Sequence[bytes] | None) -> ServerTls:
    """Return what a server listens with.

    Args:
        chain: the server's certificate in DER, then intermediates if there are any.
        key: the private key of the first certificate.
        client_authorities: DER certificates whose client certificates are accepted; None asks for none.

    Raises:
        ConfigurationError: `bad_certificate` when the certificate, the key and the authorities do not fit.
    """
    with _typed_errors():
        pin = spki_sha256(chain[0])
        context = _bare(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        _load_key(context, chain, key)
        if client_authorities is not None:
            context.load_verify_locations(cadata=b"".join(client_authorities))
            context.verify_mode = ssl.CERT_OPTIONAL
            context.verify_flags |= _NO_CHECK_TIME
    return ServerTls(context, pin, None if client_authorities is None else tuple(client_authorities))


def client_context(
    authorities: Sequence[bytes],
    *,
    credential: Sequence[bytes] = (),
    key: SigningKey | None = None,
    at_any_time: bool = False,
) -> ssl.SSLContext:
    """Return a client's context that trusts `authorities` (DER) alone and checks the host name and times.

    `credential` (DER chain, client certificate first) and `key` prove who the client is; both or neither. With
    `at_any_time` no times are checked: it is for a client whose clock is in others' hands.

    Raises:
        ConfigurationError: `bad_certificate` when they do not fit.
    """
    with _typed_errors():
        context = _bare(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=b"".join(authorities))
        if at_any_time:
            context.verify_flags |= _NO_CHECK_TIME
        _load_credential(context, credential, key)
    return context


def pinned_context(
    certificate: bytes, *, credential: Sequence[bytes] = (), key: SigningKey | None = None
) -> ssl.SSLContext:
    """Return a client's context that accepts exactly one server certificate (DER), whatever its host and times.

    It is for an enclave's self-signed certificate, after attestation has bound its key.

    Raises:
        ConfigurationError: `bad_certificate` when the arguments do not fit.
    """
    with _typed_errors():
        context = _bare(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=certificate)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        _load_credential(context, credential, key)
    return context


def unverified_context_for_attestation_only(
    *, credential: Sequence[bytes] = (), key: SigningKey | None = None
) -> ssl.SSLContext:
    """Return a client's context that accepts ANY server: only to fetch evidence before its key is known.

    Nothing else may be sent or believed on such a connection. The caller takes the peer's certificate from it,
    checks that genuine, acceptable evidence binds that key, and goes on with `pinned_context`.
    """
    with _typed_errors():
        context = _bare(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        _load_credential(context, credential, key)
    return context


def unverified_context_for_sealed_bodies() -> ssl.SSLContext:
    """Return a client's context that accepts ANY server, and shows no certificate.

    It is for what is sealed to the attested key of an enclave (`protocol.sealed`), and read by nobody who ends TLS on
    the way. Nothing else may be sent or believed on such a connection.
    """
    return unverified_context_for_attestation_only()


def _bare(protocol: int) -> ssl.SSLContext:
    # A bare context, not ssl.create_default_context: that one trusts the system's authorities.
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(list(_ALPN))
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    # SSLKEYLOGFILE would write session keys to disk; only create_default_context reads it, and this stays unset.
    return context


def _load_credential(context: ssl.SSLContext, credential: Sequence[bytes], key: SigningKey | None) -> None:
    if bool(credential) != (key is not None):
        raise ConfigurationError("a client certificate and its key go together", reason="bad_certificate")
    if key is not None:
        _load_key(context, credential, key)


def _load_key(context: ssl.SSLContext, chain: Sequence[bytes], key: SigningKey | TlsKey) -> None:
    certificates = to_pem(*chain)
    with key_to_pem(key) as pem, _in_memory(certificates) as certificate_path, _in_memory(pem.reveal()) as key_path:
        # A callback, even one that refuses: without it OpenSSL would ask the terminal for a passphrase.
        context.load_cert_chain(certificate_path, key_path, password=_no_passphrase)


def _no_passphrase() -> bytes:
    return b""


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """Yield a path that reads `data` once, and that is in no directory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
    else:
        descriptor, path = _pipe(data)
    try:
        if hasattr(os, "memfd_create"):
            os.pwrite(descriptor, data, 0)
        yield path
    finally:
        with suppress(OSError):  # a pipe cannot be overwritten: it is empty by now
            os.pwrite(descriptor, bytes(len(data)), 0)
        os.close(descriptor)


def _pipe(data: bytes) -> tuple[int, str]:
    if len(data) > _PIPE_BYTES:
        raise ConfigurationError("the certificate chain is too long for this system", reason="bad_certificate")
    reading, writing = os.pipe()
    try:
        os.write(writing, data)
    finally:
        os.close(writing)
    return reading, f"/dev/fd/{reading}"


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except (ssl.SSLError, OSError, ValueError, IndexError) as error:
        name = getattr(error, "reason", None) or type(error).__name__
        raise ConfigurationError(f"certificates and key do not fit: {name}", reason="bad_certificate") from None
