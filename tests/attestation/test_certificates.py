"""Chains to a pinned root: each rule of RFC 5280 that is used, and each way around it."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from tests.attestation.authority import DAY, NOW, NOW_MS, Certified, key_of, revocation_list, usage

from aigovtool.attestation.certificates import (
    Period,
    Profile,
    fingerprint,
    read_certificates,
    read_revocation_list,
    require_chain,
    require_not_revoked,
    require_period,
)
from aigovtool.errors import EvidenceError
from aigovtool.limits import MAX_CERTIFICATE_BYTES

PROFILE = Profile(
    vendor="a vendor", signatures=frozenset({("ecdsa", "sha384")}), curves=frozenset({"secp384r1"}), rsa_bits=0
)
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def chain(**changes: Any) -> list[x509.Certificate]:
    """Leaf, intermediate, root; `changes` are fields of one of them: `leaf__key=...`."""
    made = {
        "leaf": Certified("leaf", "middle", authority=False),
        "middle": Certified("middle", "root"),
        "root": Certified("root", "root"),
    }
    for name, value in changes.items():
        which, field = name.split("__")
        setattr(made[which], field, value)
    return [made[name].made() for name in ("leaf", "middle", "root")]


ROOT = fingerprint(chain()[-1])


def reason(found: list[x509.Certificate], profile: Profile = PROFILE, *roots: str) -> str | None:
    try:
        require_chain(found, roots or (ROOT, fingerprint(found[-1])), profile)
    except EvidenceError as error:
        return error.reason
    return None


def test_a_chain_to_the_pinned_root_is_good() -> None:
    """Leaf, intermediate and root; a root may also issue leaves itself."""
    assert reason(chain(), PROFILE, ROOT) is None
    assert reason([Certified("leaf", "root", authority=False).made(), chain()[-1]], PROFILE, ROOT) is None


def test_a_root_is_pinned_by_all_its_bytes() -> None:
    """Attack: a root of the same name, and one with the same key but other words."""
    impostor = chain(root__key=key_of("thief"), root__issuer_key=key_of("thief"), middle__issuer_key=key_of("thief"))
    assert reason(impostor, PROFILE, ROOT) == "chain_root"
    assert reason(chain(root__serial=8), PROFILE, ROOT) == "chain_root"
    assert reason(chain()[:2], PROFILE, ROOT) == "chain_root"
    assert reason(chain()[:1], PROFILE, ROOT) == "chain_length"
    assert reason([], PROFILE, ROOT) == "chain_length"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "leaf signed by another": ({"leaf__issuer_key": key_of("thief")}, "chain_signature"),
    "middle signed by another": ({"middle__issuer_key": key_of("thief")}, "chain_signature"),
    "root not signed by itself": ({"root__issuer_key": key_of("thief")}, "chain_signature"),
    "leaf of another issuer": ({"leaf__issuer": "another", "leaf__issuer_key": key_of("middle")}, "chain_issuer"),
    "middle is no authority": ({"middle__authority": False, "middle__usage": usage(authority=True)}, "chain_ca"),
    "middle says nothing of it": ({"middle__constraints": False}, "chain_ca"),
    "middle may not sign": ({"middle__usage": usage(lists=True)}, "chain_usage"),
    "root may not sign": ({"root__usage": usage(lists=True)}, "chain_usage"),
    "root allows none below": ({"root__path_length": 0}, "chain_length"),
    "leaf with a weaker hash": ({"leaf__hash": hashes.SHA256()}, "chain_algorithm"),
    "root with a weaker hash": ({"root__hash": hashes.SHA256()}, "chain_algorithm"),
    "leaf on another curve": ({"leaf__key": key_of("leaf", ec.SECP256R1())}, "chain_algorithm"),
    "middle on another curve": (
        {"middle__key": key_of("middle", ec.SECP521R1()), "leaf__issuer_key": key_of("middle", ec.SECP521R1())},
        "chain_algorithm",
    ),
    "leaf with an unknown rule": ({"leaf__extensions": [(UNKNOWN, True)]}, "chain_extension"),
    "root with an unknown rule": ({"root__extensions": [(UNKNOWN, True)]}, "chain_extension"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_breaks_a_rule_is_refused(what: str) -> None:
    """Each rule for each certificate, with its own reason."""
    changes, why = WRONG[what]
    assert reason(chain(**changes)) == why


def test_what_is_not_critical_may_be_unknown_and_what_the_vendor_judges_may_be_critical() -> None:
    """RFC 5280, section 4.2: only critical extensions must be understood."""
    assert reason(chain(leaf__extensions=[(UNKNOWN, False)])) is None
    judged = Profile(PROFILE.vendor, PROFILE.signatures, PROFILE.curves, 0, critical=frozenset({UNKNOWN.oid}))
    assert reason(chain(leaf__extensions=[(UNKNOWN, True)]), judged) is None


def test_a_leaf_serves_its_purpose() -> None:
    """Attack: a genuine certificate of the same authority for something else."""
    wanted = Profile(
        PROFILE.vendor,
        PROFILE.signatures,
        PROFILE.curves,
        0,
        leaf_purposes=frozenset({ExtendedKeyUsageOID.CODE_SIGNING}),
    )
    other = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert (
        reason(chain(leaf__extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)]), wanted)
        is None
    )
    assert reason(chain(leaf__extensions=[(other, False)]), wanted) == "chain_usage"
    assert reason(chain(), wanted) == "chain_usage"


def test_every_certificate_is_valid_at_the_time() -> None:
    """Bounds included, to the second, for leaf, intermediate and root."""
    assert require_period(chain(), NOW_MS, PROFILE) == Period(
        int((NOW - DAY).timestamp() * 1000), int((NOW + 30 * DAY).timestamp() * 1000)
    )
    for which in ("leaf", "middle", "root"):
        later, sooner = {f"{which}__not_before": NOW}, {f"{which}__not_after": NOW}
        require_period(chain(**later), NOW_MS, PROFILE)
        require_period(chain(**sooner), NOW_MS, PROFILE)
        with pytest.raises(EvidenceError) as early:
            require_period(chain(**later), NOW_MS - 1, PROFILE)
        assert early.value.reason == "not_yet_valid"
        with pytest.raises(EvidenceError) as late:
            require_period(chain(**sooner), NOW_MS + 1, PROFILE)
        assert late.value.reason == "expired"


# --- Encodings ---------------------------------------------------------------------------------------------------


def unread(data: bytes) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        read_certificates(data)
    return caught.value.reason


def test_certificates_are_read_from_der_and_from_pem() -> None:
    """One in DER, or any number in PEM with LF or CRLF."""
    found = chain()
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in found)
    assert read_certificates(found[0].public_bytes(Encoding.DER)) == (found[0],)
    assert list(read_certificates(pem)) == list(read_certificates(pem.replace(b"\n", b"\r\n"))) == found


def test_a_byte_that_means_nothing_is_not_read() -> None:
    """Attack: many spellings of one certificate, so that one that was refused comes back looking new."""
    der, pem = chain()[0].public_bytes(Encoding.DER), chain()[0].public_bytes(Encoding.PEM)
    lines = pem.splitlines(keepends=True)
    for data in (
        *(der + b"\x00", der[:-1], b"", b"\x30"),
        *(pem + b"\n", b"text\n" + pem, pem.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"), pem[:-20]),
        b"".join([lines[0], lines[1][:-2] + b"\n", lines[1][-2:], *lines[2:]]),
        pem.replace(b"-----BEGIN", b"-----BEGIN ", 1),
    ):
        assert unread(data) == "certificate_encoding"
    assert unread(bytes(MAX_CERTIFICATE_BYTES + 1)) == "certificate_too_large"
    changed = [data for at in range(len(pem)) for data in (pem[:at] + bytes([pem[at] ^ 0x20]) + pem[at + 1 :],)]
    for data in changed:
        try:
            (other,) = read_certificates(data)
        except EvidenceError:
            continue
        assert other != chain()[0]


# --- Revocation --------------------------------------------------------------------------------------------------


def revoked(found: x509.CertificateRevocationList, now_ms: int = NOW_MS, **changes: Any) -> str | None:
    leaf, middle, _ = chain(**changes)
    try:
        require_not_revoked([leaf, middle], found, middle, now_ms, PROFILE)
    except EvidenceError as error:
        return error.reason
    return None


def test_what_is_listed_is_revoked() -> None:
    """By its issuer and number; the same number of another issuer is another certificate."""
    assert revoked(revocation_list("middle", [9])) is None
    assert revoked(revocation_list("middle", [7])) == "revoked"
    assert revoked(revocation_list("middle", [1]), leaf__serial=8, middle__serial=1) is None


def test_a_list_is_of_the_issuer_and_of_this_time() -> None:
    """Attack: an older list from before the revocation, another authority's, or a forged one."""
    edge = int((NOW + 7 * DAY).timestamp() * 1000)
    assert revoked(revocation_list("middle"), edge) is None
    assert revoked(revocation_list("middle"), edge + 1) == "revocation_stale"
    assert revoked(revocation_list("middle", since=NOW + timedelta(seconds=1))) == "revocation_stale"
    assert revoked(revocation_list("root")) == "revocation_issuer"
    assert revoked(revocation_list("middle", key=key_of("thief"))) == "revocation_signature"
    assert revoked(revocation_list("middle"), middle__usage=usage(authority=True)) == "revocation_signature"


def test_a_list_that_is_not_whole_is_refused() -> None:
    """A delta says only what has changed; an unknown critical extension may say anything."""
    for extension in (x509.DeltaCRLIndicator(3), UNKNOWN):
        assert revoked(revocation_list("middle", extensions=[(extension, True)])) == "revocation_extension"
    assert revoked(revocation_list("middle", extensions=[(x509.CRLNumber(3), False)])) is None


def test_a_list_is_read_strictly() -> None:
    """DER or PEM, one, and nothing beside it."""
    found = revocation_list("middle", [7])
    der, pem = found.public_bytes(Encoding.DER), found.public_bytes(Encoding.PEM)
    assert read_revocation_list(der) == read_revocation_list(pem) == found
    for data in (
        der + b"\x00",
        pem + pem,
        b"",
        chain()[0].public_bytes(Encoding.DER),
        chain()[0].public_bytes(Encoding.PEM),
    ):
        with pytest.raises(EvidenceError) as caught:
            read_revocation_list(data)
        assert caught.value.reason == "certificate_encoding"
