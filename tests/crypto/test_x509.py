"""Certificates: profiles that OpenSSL accepts strictly, and identities read from them."""

import base64
import datetime as dt
import subprocess
import warnings
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.crypto.identity import IdentityKind, parse_identity
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import (
    NEVER_MS,
    describe,
    from_pem,
    is_issued_by,
    issue_client_certificate,
    issue_server_certificate,
    new_authority,
    self_signed_server_certificate,
    spki_sha256,
    to_pem,
)
from aigovtool.errors import InvalidValueError, MalformedError, TooLargeError, UnauthenticatedError

START_MS = 1_800_000_000_000
END_MS = START_MS + 86_400_000
AUTHORITY_KEY = SigningKey.generate()
AUTHORITY = new_authority(AUTHORITY_KEY, "credentials", not_before_ms=START_MS, not_after_ms=END_MS)
HOLDER = SigningKey.generate()


def credential(kind: IdentityKind = IdentityKind.CONSUMER, name: str = "radiology") -> bytes:
    return issue_client_certificate(
        AUTHORITY_KEY, AUTHORITY, HOLDER.public, kind, name, not_before_ms=START_MS, not_after_ms=END_MS
    )


def crafted(names: list[x509.GeneralName] | None, *, ca: bool = False, eku: bool = True) -> bytes:
    """A certificate whose signature is good and whose content is wrong."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "urn:aigovtool:operator:root")]))
        .issuer_name(x509.Name([]))
        .public_key(Ed25519PublicKey.from_public_bytes(HOLDER.public.raw))
        .serial_number(7)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2050, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(AUTHORITY_KEY.private(), None).public_bytes(Encoding.DER)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize("kind", list(IdentityKind))
def test_an_identity_is_read_as_it_was_issued(kind: IdentityKind) -> None:
    """Kind, name, key and validity come back; the key id is the key's."""
    identity = parse_identity(credential(kind, "a.b-c"), START_MS)
    assert (identity.kind, identity.name, identity.public_key) == (kind, "a.b-c", HOLDER.public)
    assert (identity.not_before_ms, identity.not_after_ms) == (START_MS, END_MS)
    assert identity.key_id == HOLDER.public.key_id
    assert identity.serial > 0


def test_a_consumers_certificate_says_whose_consumer_it_is() -> None:
    """One of an earlier version does not; nobody but a consumer belongs to a borrower."""
    validity = {"not_before_ms": START_MS, "not_after_ms": END_MS}

    def issued(kind: IdentityKind, borrower: str) -> bytes:
        return issue_client_certificate(
            AUTHORITY_KEY, AUTHORITY, HOLDER.public, kind, "ward7", borrower=borrower, **validity
        )

    read = parse_identity(issued(IdentityKind.CONSUMER, "st-mary"), START_MS)
    assert (read.kind, read.name, read.borrower) == (IdentityKind.CONSUMER, "ward7", "st-mary")
    assert parse_identity(credential(), START_MS).borrower is None
    for kind, borrower in ((IdentityKind.OPERATOR, "st-mary"), (IdentityKind.CONSUMER, "st:mary")):
        with pytest.raises(InvalidValueError):
            issued(kind, borrower)


@pytest.mark.parametrize(
    ("now_ms", "reason"),
    [(START_MS - 1, "credential_not_yet_valid"), (END_MS + 1, "credential_expired"), (0, "credential_not_yet_valid")],
)
def test_a_credential_out_of_its_time_is_refused(now_ms: int, reason: str) -> None:
    """One millisecond outside the validity is outside; both ends are inside."""
    parse_identity(credential(), START_MS)
    parse_identity(credential(), END_MS)
    with pytest.raises(UnauthenticatedError) as caught:
        parse_identity(credential(), now_ms)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x30\x82", id="truncated"),
        pytest.param(credential() + b"\0", id="trailing-byte"),
        pytest.param(bytes(20_000), id="too-large"),
        pytest.param(self_signed_server_certificate(TlsKey.generate()), id="server-certificate"),
        pytest.param(AUTHORITY, id="authority"),
        pytest.param(crafted(None), id="no-name-but-a-subject-that-looks-like-one"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:a"), uri("urn:aigovtool:operator:a")]), id="two-names"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:a"), x509.DNSName("a")]), id="name-and-dns"),
        pytest.param(crafted([x509.DNSName("urn:aigovtool:consumer:a")]), id="dns-name"),
        pytest.param(crafted([uri("urn:aigovtool:root:a")]), id="unknown-kind"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:")]), id="empty-name"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:A")]), id="upper-case"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:a\n")]), id="line-feed"),
        pytest.param(crafted([uri("urn:aigovtool:consumer::a")]), id="empty-borrower"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:a:")]), id="borrower-without-a-name"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:a:b:c")]), id="three-names"),
        pytest.param(crafted([uri("urn:aigovtool:operator:a:b")]), id="operator-of-somebody"),
        pytest.param(crafted([uri("URN:aigovtool:consumer:a")]), id="other-spelling"),
        pytest.param(crafted([uri("https://aigovtool/consumer/a")]), id="foreign-uri"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:a")], ca=True), id="is-an-authority"),
        pytest.param(crafted([uri("urn:aigovtool:consumer:a")], eku=False), id="no-purpose"),
    ],
)
def test_a_certificate_that_is_no_credential_is_refused(certificate: bytes) -> None:
    """Everything but exactly one identity in a client certificate is one typed error."""
    with pytest.raises(UnauthenticatedError) as caught:
        parse_identity(certificate, START_MS)
    assert caught.value.reason == "bad_credential"


#: One of them: another one may have another length.
CREDENTIAL = credential()


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_serial_number_below_one_is_refused(action: Literal["error", "ignore"]) -> None:
    """Which RFC 5280 disallows (section 4.1.2.2); whether the library's warning of it is raised or not."""
    version = b"\xa0\x03\x02\x01\x02"
    serial = CREDENTIAL.index(version) + len(version) + 2
    negative = CREDENTIAL[:serial] + b"\xf9" + CREDENTIAL[serial + 1 :]
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(UnauthenticatedError) as caught:
            parse_identity(negative, START_MS)
    assert caught.value.reason == "bad_credential"


def test_a_credential_of_an_old_version_is_refused() -> None:
    """Extensions are of version 3 alone (RFC 5280, 4.1.2.9), and all that is read here is in them."""
    head, version = b"\x30\x82", b"\xa0\x03\x02\x01\x02"
    assert (CREDENTIAL[:2], CREDENTIAL[4:6], CREDENTIAL[8:13]) == (head, head, version)
    sizes = [(int.from_bytes(CREDENTIAL[at : at + 2]) - len(version)).to_bytes(2) for at in (2, 6)]
    old = head + sizes[0] + head + sizes[1] + CREDENTIAL[13:]
    assert x509.load_der_x509_certificate(old).version is x509.Version.v1
    with pytest.raises(UnauthenticatedError) as caught:
        parse_identity(old, START_MS)
    assert caught.value.reason == "bad_credential"


@pytest.mark.parametrize("y", [0, 1, 2**255 - 20, 2**255 - 19])
def test_a_credential_for_a_key_that_everybody_has_is_refused(y: int) -> None:
    """Keys of small order and second encodings of a key identify nobody; the error is that of any bad credential."""
    weak = CREDENTIAL.replace(HOLDER.public.raw, y.to_bytes(32, "little"))
    with pytest.raises(UnauthenticatedError) as caught:
        parse_identity(weak, START_MS)
    assert caught.value.reason == "bad_credential"


@settings(derandomize=True, max_examples=60, deadline=None)
@given(position=st.integers(0, len(CREDENTIAL) - 1), value=st.integers(0, 255))
def test_a_damaged_certificate_raises_nothing_else(position: int, value: int) -> None:
    """A changed byte gives an identity or `UnauthenticatedError`; no foreign exception escapes."""
    damaged = bytearray(CREDENTIAL)
    damaged[position] = value
    try:
        parse_identity(bytes(damaged), START_MS)
    except UnauthenticatedError:
        return


@pytest.mark.parametrize("name", ["", "A", "a b", "a:b", "a/b", "ä", "-a", "a" * 64])
def test_a_bad_name_is_not_issued(name: str) -> None:
    """The authority signs valid names only."""
    with pytest.raises(InvalidValueError):
        credential(name=name)


def test_empty_validity_and_bad_hosts_are_not_issued() -> None:
    """Mistakes are refused before anything is signed."""
    with pytest.raises(InvalidValueError):
        new_authority(AUTHORITY_KEY, "x", not_before_ms=END_MS, not_after_ms=END_MS)
    for hosts in ([], ["a b"], ["*"], ["a" * 254], [""]):
        with pytest.raises(InvalidValueError):
            self_signed_server_certificate(TlsKey.generate(), hosts)


def openssl_verify(tmp_path: Path, anchor: bytes, leaf: bytes, *options: str) -> bool:
    (tmp_path / "anchor.pem").write_bytes(to_pem(anchor))
    (tmp_path / "leaf.pem").write_bytes(to_pem(leaf))
    command = ["openssl", "verify", "-x509_strict", "-attime", str(START_MS // 1000 + 60), *options]
    command += ["-CAfile", str(tmp_path / "anchor.pem"), str(tmp_path / "leaf.pem")]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_openssl_verifies_every_profile_strictly(tmp_path: Path) -> None:
    """An independent verifier accepts each certificate for its purpose and for no other."""
    tls_authority_key, server_key = TlsKey.generate(), TlsKey.generate()
    tls_authority = new_authority(tls_authority_key, "custodian", not_before_ms=START_MS, not_after_ms=END_MS)
    server = issue_server_certificate(
        tls_authority_key,
        tls_authority,
        server_key,
        ["custodian.example", "10.0.0.1", "::1"],
        not_before_ms=START_MS,
        not_after_ms=END_MS,
    )
    enclave = self_signed_server_certificate(TlsKey.generate())
    assert openssl_verify(tmp_path, AUTHORITY, credential(), "-purpose", "sslclient")
    assert openssl_verify(tmp_path, tls_authority, server, "-purpose", "sslserver", "-verify_ip", "10.0.0.1")
    assert openssl_verify(tmp_path, tls_authority, server, "-verify_hostname", "custodian.example")
    assert openssl_verify(tmp_path, enclave, enclave, "-purpose", "sslserver", "-partial_chain")
    assert not openssl_verify(tmp_path, AUTHORITY, credential(), "-purpose", "sslserver")
    assert not openssl_verify(tmp_path, tls_authority, server, "-verify_hostname", "other.example")
    assert not openssl_verify(tmp_path, tls_authority, credential(), "-purpose", "sslclient")
    assert not openssl_verify(tmp_path, credential(), credential())


def test_a_credential_cannot_sign_another(tmp_path: Path) -> None:
    """A client certificate is no authority: what its key signs does not verify."""
    forged = issue_client_certificate(
        HOLDER, credential(), HOLDER.public, IdentityKind.OPERATOR, "root", not_before_ms=START_MS, not_after_ms=END_MS
    )
    (tmp_path / "middle.pem").write_bytes(to_pem(credential()))
    assert not openssl_verify(tmp_path, AUTHORITY, forged, "-untrusted", str(tmp_path / "middle.pem"))


def test_the_pin_is_the_key_not_the_certificate() -> None:
    """Two certificates of one key have one pin; it is the key's own."""
    key = TlsKey.generate()
    first, second = self_signed_server_certificate(key), self_signed_server_certificate(key, ["a.example"])
    assert first != second
    assert spki_sha256(first) == spki_sha256(second) == key.spki_sha256()
    assert x509.load_der_x509_certificate(first).not_valid_after_utc.timestamp() * 1000 == NEVER_MS


def test_an_issuer_is_recognised_by_its_signature() -> None:
    """Not by its name alone; what is no certificate was issued by nobody."""
    namesake = new_authority(SigningKey.generate(), "credentials", not_before_ms=START_MS, not_after_ms=END_MS)
    assert is_issued_by(credential(), AUTHORITY)
    assert not is_issued_by(credential(), namesake)
    assert not is_issued_by(credential(), credential())
    assert not is_issued_by(b"nothing", AUTHORITY)


def test_pem_holds_certificates_and_nothing_else() -> None:
    """Round trip in order; a private key, text or too many certificates in the file are refused."""
    other = credential(name="other")
    pem = to_pem(AUTHORITY, other)
    assert from_pem(pem) == [AUTHORITY, other]
    with pytest.raises(TooLargeError):
        from_pem(pem * 5)
    # TEST-ONLY: the header of a private key, without a key.
    for bad in (b"", b"text\n" + pem, pem + b"-----BEGIN PRIVATE KEY-----\n", pem[:-40], bytes(10)):
        with pytest.raises(MalformedError):
            from_pem(bad)


def test_what_a_certificate_says_is_read_as_it_was_written() -> None:
    """Names, hosts and times, for people; one without hosts has none, and garbage is a typed error."""
    key, authority_key = TlsKey.generate(), TlsKey.generate()
    authority = new_authority(authority_key, "an authority", not_before_ms=START_MS, not_after_ms=END_MS)
    hosts = ["custodian.example", "10.0.0.7", "::1"]
    span = {"not_before_ms": START_MS, "not_after_ms": END_MS}
    facts = describe(issue_server_certificate(authority_key, authority, key, hosts, **span))
    assert (facts.issuer, set(facts.hosts)) == ("CN=an authority", set(hosts))
    assert (facts.not_before_ms, facts.not_after_ms) == (START_MS, END_MS)
    assert describe(authority).subject == facts.issuer
    assert describe(authority).hosts == ()
    with pytest.raises(MalformedError):
        describe(b"no certificate")


SERVER_KEY = TlsKey.generate()
SERVER = self_signed_server_certificate(SERVER_KEY)
NAMES, IDENTIFIER = bytes.fromhex("0603551d11"), bytes.fromhex("0603551d0e")


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(SERVER.replace(SERVER_KEY.spki_der[-64:], bytes(64)), id="a-point-that-is-not-on-the-curve"),
        pytest.param(SERVER.replace(NAMES, IDENTIFIER), id="an-extension-twice"),
        pytest.param(SERVER.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"), id="version-8"),
        pytest.param(
            SERVER.replace(b"\x0c\x11aigovtool enclave", b"\x06\x11aigovtool enclave"), id="a-name-of-no-text"
        ),
    ],
)
def test_what_the_library_reads_late_is_refused_at_once(damaged: bytes) -> None:
    """It parses key, names and extensions when they are asked for, and raises all kinds of errors then."""
    assert damaged != SERVER
    block = b"\n".join(
        [b"-----BEGIN CERTIFICATE-----", base64.encodebytes(damaged).strip(), b"-----END CERTIFICATE-----"]
    )
    for read in (describe, spki_sha256, to_pem, lambda one: describe(from_pem(block)[0]) if one else None):
        with pytest.raises(MalformedError):
            read(damaged)
    assert not is_issued_by(damaged, SERVER)
