"""Rules and attacks on event logs: whole, as announced, and believed only as far as digests reach."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.attestation.event_list import replay
from aigovtool.attestation.tee.tpm import event_log
from aigovtool.attestation.tee.tpm.event_log import MAX_LOG_BYTES, parse_log
from aigovtool.errors import EvidenceError

SHA1, SHA256, SHA384, SM3 = 0x0004, 0x000B, 0x000C, 0x0012
SIZES = {SHA1: 20, SHA256: 32, SHA384: 48, SM3: 32}
NAMES = {SHA1: "sha1", SHA256: "sha256", SHA384: "sha384"}
NO_ACTION, SEPARATOR, CRTM_VERSION, IPL = 0x3, 0x4, 0x8, 0xD
VARIABLE_DRIVER_CONFIG, ACTION = 0x80000001, 0x80000007


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def header(*algorithms: int, **changes: Any) -> bytes:
    sizes = {**SIZES, **changes.get("sizes", {})}
    body: bytes = changes.get("signature", b"Spec ID Event03\0") + u32(0) + changes.get("version", b"\0\2\0\2")
    body += u32(changes.get("count", len(algorithms)))
    body += b"".join(u16(one) + u16(sizes.get(one, 32)) for one in algorithms)
    body += changes.get("vendor", b"\0")
    size = changes.get("size", len(body))
    first: bytes = (
        u32(changes.get("register", 0)) + u32(changes.get("kind", NO_ACTION)) + changes.get("digest", bytes(20))
    )
    return first + u32(size) + body


def event(
    register: int, data: bytes, *, kind: int = SEPARATOR, algorithms: Sequence[int] = (SHA256,), **changes: Any
) -> bytes:
    digests = b""
    for one in algorithms:
        made = hashlib.new(NAMES[one], data).digest() if one in NAMES else bytes(32)
        digests += u16(one) + changes.get("digest", made)
    head = u32(register) + u32(kind) + u32(changes.get("count", len(algorithms))) + digests
    return head + u32(changes.get("size", len(data))) + data


def locality(value: int, **changes: Any) -> bytes:
    return event(0, b"StartupLocality\0" + bytes([value]), kind=NO_ACTION, digest=bytes(32), **changes)


LOG = header(SHA256) + event(0, b"one", kind=CRTM_VERSION) + event(4, b"two") + event(0, b"three", kind=ACTION)


def reason(data: bytes) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        parse_log(data)
    return caught.value.reason


def extended(*digests: bytes, start: bytes = bytes(32)) -> str:
    value = start
    for digest in digests:
        value = hashlib.sha256(value + digest).digest()
    return value.hex()


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_events_come_back_by_register_and_in_order() -> None:
    """What was measured into each register is returned in the order of the log, and replays."""
    log = parse_log(LOG)
    assert log.registers() == (0, 4)
    assert log.digests(0, "sha256") == (digest(b"one").hex(), digest(b"three").hex())
    assert log.replay("sha256") == {0: extended(digest(b"one"), digest(b"three")), 4: extended(digest(b"two"))}


def test_only_the_asked_registers_travel_under_their_names() -> None:
    """Digests of registers that are not quoted would prove nothing, so they stay behind."""
    listed = parse_log(LOG).event_list("sha256", {4, 5})
    assert [(one.register, one.digests) for one in listed.registers] == [("pcr4", (digest(b"two").hex(),))]
    named = parse_log(LOG).event_list("sha256", {0}, lambda index: f"mr{index}")
    assert [one.register for one in named.registers] == ["mr0"]
    assert replay(named.registers[0].digests, "sha256") == parse_log(LOG).replay("sha256")[0]


def test_every_bank_of_a_log_replays() -> None:
    """Each event has one digest of each announced algorithm, in any order; SM3 is carried and never used."""
    banks = (SHA1, SHA256, SHA384, SM3)
    log = parse_log(header(*banks) + event(1, b"x", algorithms=banks) + event(1, b"y", algorithms=banks[::-1]))
    assert log.banks == {"sha1", "sha256", "sha384"}
    assert log.replay("sha256")[1] == extended(digest(b"x"), digest(b"y"))
    assert len(log.replay("sha384")[1]) == 96
    with pytest.raises(EvidenceError) as caught:
        log.replay("sha512")
    assert caught.value.reason == "log_bank"


def test_events_of_no_action_are_never_extended() -> None:
    """They are remarks; a register number of theirs may be one that does not exist."""
    remarks = event(0, b"x", kind=NO_ACTION, digest=bytes(32)) + event(0xFFFFFFFF, b"SP800-155 Event", kind=NO_ACTION)
    log = parse_log(LOG + remarks)
    assert log.replay("sha256") == parse_log(LOG).replay("sha256")
    assert reason(LOG + event(0xFFFFFFFF, b"x")) == "log_encoding"


@pytest.mark.parametrize("value", [0, 3, 4])
def test_startup_locality_starts_register_0(value: int) -> None:
    """The TPM was started from that locality: PCR 0, and no other, begins with it."""
    log = parse_log(header(SHA256) + locality(value) + event(0, b"a") + event(1, b"a"))
    assert log.startup_locality == value
    assert log.replay("sha256")[0] == extended(digest(b"a"), start=bytes(31) + bytes([value]))
    assert log.replay("sha256")[1] == extended(digest(b"a"))


@pytest.mark.parametrize(
    "events",
    [
        locality(1),
        locality(255),
        locality(3) + locality(3),
        event(0, b"a") + locality(3),
        event(1, b"StartupLocality\0\3", kind=NO_ACTION),
        event(0, b"StartupLocality\0", kind=NO_ACTION),
        event(0, b"StartupLocality\0\3\0", kind=NO_ACTION),
    ],
)
def test_an_impossible_startup_locality_is_refused(events: bytes) -> None:
    """Another locality, twice, too late, of another register, or of another length."""
    assert reason(header(SHA256) + events) == "log_encoding"


@pytest.mark.parametrize("kind", [SEPARATOR, CRTM_VERSION, VARIABLE_DRIVER_CONFIG, ACTION])
def test_data_of_checkable_events_must_hash_to_their_digest(kind: int) -> None:
    """Whoever reads the log may believe the data of these four, because a changed byte is refused in any bank."""
    banks = (SHA256, SHA384)
    good = header(*banks) + event(7, b"SecureBoot", kind=kind, algorithms=banks)
    assert parse_log(good).registers() == (7,)
    assert reason(good.replace(b"SecureBoot", b"SecureBoom")) == "log_event_data"
    wrong_second = good.replace(hashlib.sha384(b"SecureBoot").digest(), bytes(48))
    assert reason(wrong_second) == "log_event_data"


def test_data_of_other_events_is_a_description_only() -> None:
    """Of a kernel the digest is that of the file, and the data is its path: nothing to compare."""
    log = parse_log(header(SHA256) + event(8, b"vmlinuz", kind=IPL, digest=digest(b"the kernel")))
    assert log.digests(8, "sha256") == (digest(b"the kernel").hex(),)


def test_padding_ends_a_log() -> None:
    """A table of fixed size is filled with 0xFF; what comes after the first of it must be the same."""
    for size in (8, 9, 4096):
        assert parse_log(LOG + b"\xff" * size) == parse_log(LOG)
    assert reason(LOG + b"\xff" * 40 + b"\0") == "log_encoding"
    assert reason(LOG + b"\xff" * 7) == "log_encoding"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "log_encoding"),
        (b"\xff" * 64, "log_format"),
        (header(SHA256, signature=b"Spec ID Event02\0"), "log_format"),
        (header(SHA256, kind=SEPARATOR), "log_format"),
        (header(SHA256, register=2), "log_format"),
        (header(SHA256, digest=b"\1" * 20), "log_format"),
        (header(SHA256, size=27), "log_format"),
        (header(SHA1), "log_format"),
        (header(SHA1, SM3), "log_format"),
        (header(SHA256, version=b"\0\1\0\2"), "log_encoding"),
        (header(SHA256, version=b"\1\2\0\2"), "log_encoding"),
        (header(SHA256, version=b"\0\2\0\3"), "log_encoding"),
        (header(SHA256, SHA256), "log_encoding"),
        (header(0x0099), "log_encoding"),
        (header(0x0099, sizes={0x0099: 0}), "log_encoding"),
        (header(SHA256, sizes={SHA256: 20}), "log_encoding"),
        (header(SHA256, count=0), "log_encoding"),
        (header(SHA256, count=2), "log_encoding"),
        (header(SHA256, count=0xFFFFFFFF), "log_encoding"),
        (header(SHA256, vendor=b"\4abc"), "log_encoding"),
        (header(SHA256, vendor=b"\0abc"), "log_encoding"),
        (header(SHA256, size=0xFFFFFFFF), "log_encoding"),
        (LOG[:-1], "log_encoding"),
        (LOG + b"\0", "log_encoding"),
        (LOG + event(0, b"x", count=0xFFFFFFFF), "log_encoding"),
        (LOG + event(0, b"x", count=0), "log_encoding"),
        (LOG + event(0, b"x", size=0xFFFFFFFF), "log_encoding"),
        (LOG + event(0, b"x", algorithms=(SHA384,)), "log_encoding"),
        (LOG + event(0, b"x", algorithms=(SHA256, SHA256)), "log_encoding"),
        (header(SHA256, SHA384) + event(0, b"x", algorithms=(SHA256, SHA256), count=2), "log_encoding"),
        (header(SHA256) + bytes(MAX_LOG_BYTES), "log_size"),
    ],
)
def test_a_log_that_is_not_as_announced_is_refused(data: bytes, expected: str) -> None:
    """Old forms, other versions, lengths beyond the end, and digests that were not announced."""
    assert reason(data) == expected


def test_the_header_of_a_trust_domains_log_names_register_1() -> None:
    """Intel's CCEL has the same form and another first register number."""
    assert parse_log(header(SHA384, register=1) + event(1, b"x", algorithms=(SHA384,))).registers() == (1,)


def test_vendor_information_is_passed_over() -> None:
    """The header may end with bytes of the vendor's, as long as it says how many."""
    assert parse_log(header(SHA256, vendor=b"\3abc")).events == ()


def test_the_number_of_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of a million empty events is refused early."""
    monkeypatch.setattr(event_log, "MAX_LOG_EVENTS", 2)
    assert reason(LOG) == "log_size"


def test_every_cut_of_a_log_is_refused_or_shorter() -> None:
    """A cut log is refused, or ends between two events, where only its replay tells that some are missing."""
    whole = parse_log(LOG)
    for end in range(len(LOG)):
        try:
            cut = parse_log(LOG[:end])
        except EvidenceError:
            continue
        assert cut.replay("sha256") != whole.replay("sha256")


@given(data=st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_evidence_errors(data: bytes) -> None:
    """Neither random logs nor random events behind a good header end in another error."""
    for log in (data, header(SHA256) + data, LOG + data):
        try:
            parse_log(log)
        except EvidenceError as error:
            assert (error.reason or "").startswith("log_")


@given(start=st.integers(0, len(LOG)), length=st.integers(0, 8), piece=st.binary(max_size=8))
def test_foreign_bytes_in_a_log_raise_nothing_but_evidence_errors(start: int, length: int, piece: bytes) -> None:
    """Cut out, inserted and overwritten bytes are refused or replay to something."""
    try:
        parse_log(LOG[:start] + piece + LOG[start + length :]).replay("sha256")
    except EvidenceError as error:
        assert (error.reason or "").startswith("log_")
