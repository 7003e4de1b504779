"""Bundles of other tools: read within bounds, and never believed more than what they carry."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.attestation.authority import NOW_MS
from tests.attestation.tee.tpm.maker import Forgery, der, digest, issuing, root, sized
from tests.attestation.tee.tpm.test_event_log import event, header

from aigovtool.attestation.certificates import read_certificates
from aigovtool.attestation.model import Evidence
from aigovtool.attestation.tee.tpm.bundle import (
    MAX_BUNDLE_BYTES,
    evidence_from_directory,
    evidence_from_protobuf,
)
from aigovtool.attestation.tee.tpm.evidence import Bank
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from aigovtool.errors import EvidenceError

NONCE = b"foreign nonce"
LOG = header(0x000B, 0x000C) + b"".join(
    event(index, text, algorithms=(0x000B, 0x000C)) for index, text in ((0, b"firmware"), (4, b"boot loader"))
)


def quoted(bank: str = "sha256", certifies: str = "ek") -> Forgery:
    measured: dict[int, Sequence[bytes]] = {0: [digest("firmware", bank)], 4: [digest("boot loader", bank)]}
    return Forgery(report_data=None, extra=NONCE, bank=bank, measured=measured, certifies=certifies)


def verified(evidence: Evidence) -> list[str]:
    found = TpmVerifier((root(),), foreign_nonce=NONCE).examine(evidence, NOW_MS).genuine()
    return [one.register for one in found.events]


def pem(*certificates: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return b"".join(read_certificates(one)[0].public_bytes(Encoding.PEM) for one in certificates)


def directory(**changes: bytes | None) -> dict[str, bytes]:
    forgery = quoted()
    files: dict[str, bytes | None] = {
        "ak.pub": sized(forgery.ak_public()),
        "q.msg": forgery.attest(),
        "q.sig": forgery.signature(),
        "q.pcr": b"".join(value for _, value in sorted(forgery.values().items())),
        "ekcert.der": forgery.leaf_certificate(),
        "issuercert.pem": pem(der(issuing())),
        "binary_bios_measurements.bin": LOG,
        "cmdline": b"quiet",
        **{
            name.replace("_", ".", 1) if name != "log" else "binary_bios_measurements.bin": v
            for name, v in changes.items()
        },
    }
    return {name: data for name, data in files.items() if data is not None}


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def quote_field(forgery: Forgery, *, values: Mapping[int, bytes] | None = None) -> bytes:
    bank = {"sha256": 0x000B, "sha384": 0x000C}[forgery.bank]
    shown = forgery.values() if values is None else values
    # A map has no order: the last comes first.
    pcrs = field(1, bank) + b"".join(
        field(2, field(1, index) + field(2, value)) for index, value in sorted(shown.items(), reverse=True)
    )
    return field(2, field(1, forgery.attest()) + field(2, forgery.signature()) + field(3, pcrs))


def message(*quotes: bytes, log: bytes = LOG, more: bytes = b"") -> bytes:
    own = quoted(certifies="ak")
    head = field(1, own.ak_public()) + b"".join(quotes) + field(3, log)
    return head + field(6, own.leaf_certificate()) + more


BOTH = (quote_field(quoted(certifies="ak")), quote_field(quoted("sha384", certifies="ak")))


def reason(data: bytes | dict[str, bytes], bank: Bank | None = None) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        if isinstance(data, bytes):
            evidence_from_protobuf(data, bank)
        else:
            evidence_from_directory(data)
    return caught.value.reason


def test_a_directory_becomes_evidence() -> None:
    """The files of tpm2-tools, with the log and the issuer's certificate, verify up to a root given apart."""
    assert verified(evidence_from_directory(directory())) == ["pcr0", "pcr4"]


def test_log_and_issuer_may_be_missing_from_a_directory() -> None:
    """Without a log there are no events; without the issuer the chain does not reach the root."""
    assert verified(evidence_from_directory(directory(log=None))) == []
    bare = evidence_from_directory({k: v for k, v in directory().items() if k != "issuercert.pem"})
    with pytest.raises(EvidenceError) as caught:
        verified(bare)
    assert caught.value.reason == "chain_root"


@pytest.mark.parametrize("name", ["ak_pub", "q_msg", "q_sig", "q_pcr", "ekcert_der"])
def test_a_directory_without_a_needed_file_is_refused(name: str) -> None:
    """What is missing is named."""
    assert reason(directory(**{name: None})) == "bundle_file"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("q_pcr", bytes(63), "bundle_file"),
        ("q_pcr", bytes(96), "bundle_file"),
        ("ak_pub", b"\0\1", "public_area"),
        ("ak_pub", b"\0\1\0\0", "public_area"),
        ("q_msg", b"\xffTCG", "attest_encoding"),
        ("q_sig", b"", "bundle_encoding"),
        ("log", b"\0", "log_encoding"),
        ("ekcert_der", b"", "bundle_encoding"),
    ],
)
def test_a_directory_with_a_malformed_file_is_refused(name: str, data: bytes, expected: str) -> None:
    """A file of another size or form is not turned into evidence."""
    assert reason(directory(**{name: data})) == expected


def test_a_protobuf_message_becomes_evidence_of_the_chosen_bank() -> None:
    """By default the strongest bank that is quoted; the order of the quotes does not matter."""
    issuers = pem(der(issuing()))
    for quotes in (BOTH, BOTH[::-1]):
        for bank, size in ((None, 96), (Bank.SHA384, 96), (Bank.SHA256, 64)):
            evidence = evidence_from_protobuf(message(*quotes), bank, [issuers])
            assert verified(evidence) == ["pcr0", "pcr4"]
            assert (size == 96) == (b'"bank":"sha384"' in evidence.data)
    assert b'"bank":"sha256"' in evidence_from_protobuf(message(BOTH[0])).data


def test_intermediates_of_the_message_are_taken_first() -> None:
    """A message that brings its own chain needs none from beside."""
    with_chain = message(*BOTH, more=field(7, der(issuing())) + field(4, b"") + field(5, b"x"))
    assert verified(evidence_from_protobuf(with_chain)) == ["pcr0", "pcr4"]


@pytest.mark.parametrize(
    ("data", "bank", "expected"),
    [
        (message(), None, "bundle_bank"),
        (message(BOTH[0]), Bank.SHA384, "bundle_bank"),
        (message(*BOTH, more=field(10, b"")), None, "bundle_encoding"),
        (message(*BOTH, more=field(1, b"x")), None, "bundle_encoding"),
        (message(*BOTH, more=field(4, 1)), None, "bundle_encoding"),
        (message(*BOTH, more=varint(4 << 3 | 5) + bytes(4)), None, "bundle_encoding"),
        (message(*BOTH)[:-1], None, "bundle_encoding"),
        (message(*BOTH) + b"\x80", None, "bundle_encoding"),
        (message(*BOTH) + b"\x80" * 11, None, "bundle_encoding"),
        (message(*BOTH) + b"\xff" * 9 + b"\x7f", None, "bundle_encoding"),
        (bytes(MAX_BUNDLE_BYTES + 1), None, "bundle_size"),
        (field(2, b"") + message(*BOTH), Bank.SHA384, None),
        (message(field(2, field(3, field(1, 11) + field(1, 11)))), None, "bundle_encoding"),
        (message(field(2, field(3, field(2, field(1, 0)) * 2))), None, "bundle_encoding"),
        (message(*BOTH, log=b"\0"), None, "log_encoding"),
        (message(*BOTH, more=field(7, b"x") * 17), None, "evidence_too_large"),
        (message(quote_field(quoted(certifies="ak"), values={0: bytes(20)})), None, "bundle_encoding"),
        (message(quote_field(quoted(certifies="ak"), values={24: bytes(32)})), None, "bundle_encoding"),
    ],
)
def test_a_message_that_is_not_as_it_should_be_is_refused(data: bytes, bank: Bank | None, expected: str | None) -> None:
    """Unknown, repeated, cut and oversized fields; PCRs twice or of another size; banks that are not quoted."""
    if expected is None:
        evidence_from_protobuf(data, bank)
    else:
        assert reason(data, bank) == expected


@given(data=st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_evidence_errors(data: bytes) -> None:
    """Whatever the file is, it is refused with `EvidenceError`."""
    for bundle in (data, message(field(2, data)), message(*BOTH, log=data)):
        try:
            evidence_from_protobuf(bundle)
        except EvidenceError as error:
            assert error.reason


@given(name=st.sampled_from(["ak_pub", "q_msg", "q_sig", "q_pcr", "ekcert_der"]), data=st.binary(max_size=200))
def test_random_files_raise_nothing_but_evidence_errors(name: str, data: bytes) -> None:
    """A directory with one file of random bytes is refused, here or by the verifier."""
    try:
        verified(evidence_from_directory(directory(**{name: data})))
    except EvidenceError as error:
        assert error.reason not in {None, "internal"}
    else:
        pytest.fail("random bytes verified")
