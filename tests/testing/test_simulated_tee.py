"""Rules and attacks on the simulated TEE: complete as a protocol, genuine or refused, never anything else."""

import dataclasses
import random
import struct
from functools import cache
from hashlib import sha384
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.attestation.appraisal import appraise
from aigovtool.attestation.model import Evidence, MeasurementHex, Status, TeeType, VerifiedEvidence
from aigovtool.attestation.verifier import Verifier, VerifierSet
from aigovtool.codec import encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.errors import AppraisalError, ConfigurationError, EvidenceError
from aigovtool.testing.simulated_tee import BANNER, abi
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform, measure
from aigovtool.testing.simulated_tee.root import (
    CA_KIND,
    CA_SUBJECT,
    PLATFORM_KIND,
    ROOT_PUBLIC_KEY,
    VALID_FROM_MS,
    VALID_UNTIL_MS,
    CaCertificate,
    PlatformCertificate,
    ca_certificate,
    ca_key,
    root_key,
)
from aigovtool.testing.simulated_tee.verify import SimulatedVerifier, simulated_policy

NOW_MS = 1_800_000_000_000
MEASUREMENT = MeasurementHex("5a" * 48)
REPORT_DATA = bytes(range(64))
CHIP_ID = b"\xc1" * 32


@cache
def genuine() -> Evidence:
    """Return the same genuine evidence to every test."""
    return SimulatedPlatform(MEASUREMENT, chip_id=CHIP_ID, tcb=(1, 2, 3), host_data=b"\x07" * 32).report(REPORT_DATA)


def verify(evidence: Evidence, now_ms: int = NOW_MS) -> VerifiedEvidence:
    return SimulatedVerifier().examine(evidence, now_ms).genuine()


def reason(evidence: Evidence, now_ms: int = NOW_MS) -> str | None:
    """Return why `evidence` is not genuine."""
    with pytest.raises(EvidenceError) as caught:
        verify(evidence, now_ms)
    return caught.value.reason


def with_data(data: bytes) -> Evidence:
    return msgspec.structs.replace(genuine(), data=data)


def forged(
    *,
    ca_signer: SigningKey | None = None,
    ca_kind: str = CA_KIND,
    ca: dict[str, Any] | None = None,
    platform_signer: SigningKey | None = None,
    platform_kind: str = PLATFORM_KIND,
    platform: dict[str, Any] | None = None,
) -> Evidence:
    """Return evidence that is well-formed throughout, with a chain of the attacker's making.

    With no argument it is genuine: `test_forger_can_make_genuine_evidence` says so.
    """
    key = SigningKey.generate()
    validity = {"not_before_ms": VALID_FROM_MS, "not_after_ms": VALID_UNTIL_MS}
    ca_fields = {"subject": CA_SUBJECT, "public_key": ca_key().public.raw, **validity}
    platform_fields = {"public_key": key.public.raw, "chip_id": CHIP_ID, "tcb": (1, 2, 3), **validity}
    ca_certificate_ = CaCertificate(**{**ca_fields, **(ca or {})})
    platform_certificate = PlatformCertificate(**{**platform_fields, **(platform or {})})
    signed = genuine().data[: abi.SIGNED_BYTES]
    return Evidence(
        tee=TeeType.SIMULATED,
        data=signed + key.sign(signed),
        endorsements=(
            encode(seal(platform_kind, platform_certificate, platform_signer or ca_key())),
            encode(seal(ca_kind, ca_certificate_, ca_signer or root_key())),
        ),
    )


def test_genuine_evidence_says_what_the_platform_was_told() -> None:
    """Every field of the report comes back from verification, under its name."""
    found = verify(genuine())
    assert found.tee is TeeType.SIMULATED
    assert [(m.name, m.digest) for m in found.measurements] == [("source", MEASUREMENT)]
    assert found.report_data == REPORT_DATA
    assert (found.debug, found.memory_encryption) == (False, True)
    assert [(c.name, c.version) for c in found.tcb.components] == [("loader", 1), ("firmware", 2), ("microcode", 3)]
    assert found.chip_id == CHIP_ID.hex()
    assert [(f.name, f.value) for f in found.facts] == [("host_data", "07" * 32)]
    assert found.endorsed_until_ms == VALID_UNTIL_MS


def test_forger_can_make_genuine_evidence() -> None:
    """Without a defect the forger of these tests is believed, so each refusal below is due to its one defect."""
    assert verify(forged()).report_data == REPORT_DATA


def test_root_is_the_published_sentence_and_nothing_else() -> None:
    """The pinned root is the key that anybody can compute: the simulation cannot be mistaken for protection."""
    assert root_key().public.raw == ROOT_PUBLIC_KEY
    assert ca_key().public.raw != ROOT_PUBLIC_KEY
    assert BANNER == "SIMULATED TEE: protects nothing"


def test_each_boot_has_its_own_platform_key() -> None:
    """Two boots of one machine do not share a key."""
    first, second = (SimulatedPlatform(MEASUREMENT).report(REPORT_DATA) for _ in range(2))
    assert first.endorsements[0] != second.endorsements[0]
    assert first.endorsements[1] == second.endorsements[1]
    crossed = msgspec.structs.replace(first, endorsements=second.endorsements)
    assert reason(crossed) == "signature"


@pytest.mark.parametrize("part", ["data", "platform", "ca"])
def test_every_changed_byte_is_refused(part: str) -> None:
    """A flip of one bit in every byte of report and chain is not genuine, and raises nothing but `EvidenceError`."""
    dice = random.Random(20261123)
    original = {"data": genuine().data, "platform": genuine().endorsements[0], "ca": genuine().endorsements[1]}
    for index in range(len(original[part])):
        changed = bytearray(original[part])
        changed[index] ^= 1 << dice.randrange(8)
        parts = original | {part: bytes(changed)}
        evidence = Evidence(tee=TeeType.SIMULATED, data=parts["data"], endorsements=(parts["platform"], parts["ca"]))
        assert reason(evidence) is not None, f"{part} byte {index}"


def test_every_bit_of_the_signed_report_outside_the_signature_is_covered_by_it() -> None:
    """With a well-formed change of each field the signature is what refuses, not the parser's luck."""
    report, signature = abi.parse(genuine().data)
    changes: list[dict[str, Any]] = [
        {"debug": True},
        {"memory_encryption": False},
        {"tcb": (1, 2, 4)},
        {"chip_id": b"\xc2" * 32},
        {"measurement": b"\x5b" * 48},
        {"report_data": bytes(64)},
        {"host_data": bytes(32)},
    ]
    assert {name for change in changes for name in change} == {f.name for f in dataclasses.fields(abi.Report)}
    for change in changes:
        assert reason(with_data(abi.compose(dataclasses.replace(report, **change)) + signature)) == "signature"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        # Numbers of the spec, not of the code.
        (0x000, 0x008, "report_magic"),
        (0x008, 0x00C, "report_version"),
        (0x016, 0x020, "report_reserved"),
        (0x070, 0x080, "report_reserved"),
        (0x0E0, 0x100, "report_reserved"),
    ],
)
def test_magic_version_and_reserved_bytes_are_fixed(start: int, end: int, expected: str) -> None:
    """Each byte of magic, version and reserved ranges is refused by name, whoever signs the report."""
    for index in range(start, end):
        changed = bytearray(genuine().data)
        changed[index] ^= 0x80
        assert reason(with_data(bytes(changed))) == expected


@pytest.mark.parametrize("bit", range(2, 32))
def test_unknown_flags_are_refused(bit: int) -> None:
    """A flag this version does not know might mean danger, so it is not ignored."""
    changed = bytearray(genuine().data)
    changed[abi.FLAGS_OFFSET + bit // 8] ^= 1 << bit % 8
    assert reason(with_data(bytes(changed))) == "report_flags"


@pytest.mark.parametrize("length", [1, abi.SIGNED_BYTES, abi.REPORT_BYTES - 1, abi.REPORT_BYTES + 1])
def test_report_of_another_length_is_refused(length: int) -> None:
    """Truncated and extended reports are not reports."""
    assert reason(with_data((genuine().data * 2)[:length])) == "report_length"


def test_abi_round_trips() -> None:
    """What was composed parses to the same report; the offsets of the spec hold the fields."""
    report, signature = abi.parse(genuine().data)
    assert abi.compose(report) + signature == genuine().data
    assert genuine().data[0x80:0xC0] == REPORT_DATA
    assert genuine().data[0x40:0x70].hex() == MEASUREMENT
    assert genuine().data[0x20:0x40] == CHIP_ID


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chip_id", b""),
        ("measurement", bytes(32)),
        ("report_data", bytes(63)),
        ("host_data", bytes(33)),
        ("tcb", (0, 0, 65_536)),
        ("tcb", (0, -1, 0)),
        ("tcb", (0, 0)),
    ],
)
def test_a_value_that_a_report_cannot_hold_is_refused(field: str, value: object) -> None:
    """No field is cut or padded silently."""
    report, _ = abi.parse(genuine().data)
    with pytest.raises(EvidenceError) as caught:
        dataclasses.replace(report, **{field: value})  # type: ignore[arg-type]
    assert caught.value.reason == "report_field"


def test_report_data_of_another_length_is_refused_by_the_attester() -> None:
    """Report data is never padded: 63 bytes are an error."""
    with pytest.raises(EvidenceError):
        SimulatedPlatform(MEASUREMENT).report(bytes(63))
    for wrong in ("5a" * 32, "zz" * 48):
        with pytest.raises(EvidenceError):
            SimulatedPlatform(MeasurementHex(wrong))


#: Always the same key: the names of tests hold it.
STRANGER = SigningKey.from_secret(Secret(b"\x53" * 32))


@pytest.mark.parametrize(
    "defect",
    [
        {"ca_signer": STRANGER},
        {"ca_signer": ca_key()},
        {"platform_signer": STRANGER},
        {"platform_signer": root_key()},
        {"ca": {"public_key": STRANGER.public.raw}},
        {"ca": {"subject": "simulated platform CB"}},
        {"ca_kind": PLATFORM_KIND},
        {"platform_kind": CA_KIND},
    ],
    ids=str,
)
def test_a_chain_that_does_not_reach_the_root_is_refused(defect: dict[str, Any]) -> None:
    """A stranger's root, CA or platform key, a wrong subject, or a certificate of another kind is no chain."""
    assert reason(forged(**defect)) == "chain"


def test_a_platform_certificate_is_no_ca_certificate() -> None:
    """A certified platform key cannot certify further platforms: the kinds of the statements differ."""
    platform, ca = genuine().endorsements
    assert reason(msgspec.structs.replace(genuine(), endorsements=(ca, platform))) == "chain"
    assert reason(msgspec.structs.replace(genuine(), endorsements=(platform, platform))) == "chain"


def test_a_platform_key_speaks_for_its_chip_and_tcb_only() -> None:
    """A key certified for one chip or for an old TCB version cannot report another."""
    assert reason(forged(platform={"chip_id": b"\xc2" * 32})) == "chip_mismatch"
    assert reason(forged(platform={"tcb": (1, 2, 2)})) == "tcb_mismatch"


def test_report_by_another_key_than_the_certified_one_is_refused() -> None:
    """A genuine chain beside a report that somebody else signed is not genuine."""
    assert reason(forged(platform={"public_key": STRANGER.public.raw})) == "signature"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_chain_of_another_length_is_refused(count: int) -> None:
    """Neither missing nor additional endorsements are taken."""
    endorsements = (genuine().endorsements * 2)[:count]
    assert reason(msgspec.structs.replace(genuine(), endorsements=endorsements)) == "chain_length"


@pytest.mark.parametrize("link", ["ca", "platform"])
def test_a_certificate_out_of_its_validity_is_refused(link: str) -> None:
    """Each link is valid from its first millisecond until before its last, at the time that is passed in."""
    window = {"not_before_ms": NOW_MS, "not_after_ms": NOW_MS + 1_000}
    evidence = forged(ca=window) if link == "ca" else forged(platform=window)
    assert verify(evidence, NOW_MS).endorsed_until_ms == NOW_MS + 1_000
    assert verify(evidence, NOW_MS + 999).endorsed_until_ms == NOW_MS + 1_000
    for now_ms in (0, NOW_MS - 1, NOW_MS + 1_000, 2**53):
        assert reason(evidence, now_ms) == "validity"


def test_an_expired_platform_is_refused() -> None:
    """The attester's own validity arguments reach the verifier."""
    platform = SimulatedPlatform(MEASUREMENT, not_before_ms=NOW_MS - 1_000, not_after_ms=NOW_MS)
    assert reason(platform.report(REPORT_DATA)) == "validity"


def test_white_space_in_a_certificate_is_refused() -> None:
    """A second encoding of the same certificate is refused, although its signature would verify."""
    platform, ca = genuine().endorsements
    for twisted in ((platform + b" ", ca), (platform, b" " + ca), (platform.replace(b":", b": ", 1), ca)):
        assert reason(msgspec.structs.replace(genuine(), endorsements=twisted)) == "chain"


@pytest.mark.parametrize("tee", [tee for tee in TeeType if tee is not TeeType.SIMULATED])
def test_simulated_evidence_under_a_hardware_label_is_refused(tee: TeeType) -> None:
    """Relabelling gains nothing: not with the right wiring, not with a wrong one."""
    relabelled = msgspec.structs.replace(genuine(), tee=tee)
    assert reason(relabelled) == "tee_mismatch"
    verifier: Verifier = SimulatedVerifier()
    with pytest.raises(EvidenceError) as unknown:
        VerifierSet({TeeType.SIMULATED: verifier}).verify(relabelled, NOW_MS)
    assert unknown.value.reason == "tee_unknown"
    with pytest.raises(EvidenceError) as mismatch:
        VerifierSet({TeeType.SIMULATED: verifier, tee: verifier}).verify(relabelled, NOW_MS)
    assert mismatch.value.reason == "tee_mismatch"


def test_development_policy_accepts_the_measurement_it_names_with_a_warning() -> None:
    """The whole way from evidence to result, for the one measurement that the policy names."""
    result = appraise(verify(genuine()), simulated_policy(MEASUREMENT), NOW_MS)
    assert result.body.status is Status.WARNING
    with pytest.raises(AppraisalError) as caught:
        appraise(verify(genuine()), simulated_policy(MeasurementHex("5b" * 48)), NOW_MS)
    assert caught.value.reason == "measurements"
    with pytest.raises(EvidenceError):
        simulated_policy()


def test_development_policy_refuses_debug_and_missing_memory_encryption() -> None:
    """Even the most lenient policy we ship refuses a debug TEE, and names both failed checks."""
    platform = SimulatedPlatform(MEASUREMENT, debug=True, memory_encryption=False)
    with pytest.raises(AppraisalError, match=r"debug: .*memory_encryption: ") as caught:
        appraise(verify(platform.report(REPORT_DATA)), simulated_policy(MEASUREMENT), NOW_MS)
    assert caught.value.reason == "debug"


def test_measurement_follows_every_name_and_every_byte(tmp_path: Path) -> None:
    """Changing, adding, renaming or moving source changes the measurement; other files and order do not."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_bytes(b"1")
    (tmp_path / "sub" / "b.py").write_bytes(b"2")
    seen = [measure(tmp_path)]
    assert len(bytes.fromhex(seen[0])) == 48
    (tmp_path / "notes.txt").write_bytes(b"not code")
    assert measure(tmp_path) == seen[0]
    (tmp_path / "a.py").write_bytes(b"12")
    seen.append(measure(tmp_path))
    (tmp_path / "sub" / "b.py").write_bytes(b"")
    seen.append(measure(tmp_path))
    (tmp_path / "sub" / "b.py").rename(tmp_path / "b.py")
    seen.append(measure(tmp_path))
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    seen.append(measure(tmp_path))
    assert len(set(seen)) == len(seen)


def test_measurement_of_nothing_is_refused(tmp_path: Path) -> None:
    """An empty or missing package has no measurement."""
    for empty in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigurationError) as caught:
            measure(empty)
        assert caught.value.reason == "not_measurable"


def test_measurement_is_what_the_spec_says(tmp_path: Path) -> None:
    """Anybody can compute the measurement from the files with the formula of the spec."""
    (tmp_path / "b.py").write_bytes(b"two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.py").write_bytes(b"")
    expected = sha384(b"aigovtool simulated measurement v1\x00")
    for part in (b"a/z.py", b"", b"b.py", b"two"):
        expected.update(struct.pack(">Q", len(part)) + part)
    assert measure(tmp_path) == expected.hexdigest()


small = settings(derandomize=True, max_examples=150)


@small
@given(data=st.binary(min_size=1, max_size=400), endorsements=st.lists(st.binary(max_size=300), max_size=3))
def test_random_bytes_give_only_typed_errors(data: bytes, endorsements: list[bytes]) -> None:
    """Any bytes at all are refused with `EvidenceError`."""
    assert reason(Evidence(tee=TeeType.SIMULATED, data=data, endorsements=tuple(endorsements))) is not None


@small
@given(start=st.integers(0, abi.REPORT_BYTES - 1), piece=st.binary(min_size=1, max_size=64))
def test_a_genuine_report_with_foreign_bytes_gives_only_typed_errors(start: int, piece: bytes) -> None:
    """Overwriting any part of a genuine report is refused, unless it writes what stood there."""
    data = genuine().data
    changed = (data[:start] + piece + data[start + len(piece) :])[: len(data)]
    if changed == data:
        assert verify(with_data(changed)) == verify(genuine())
    else:
        assert reason(with_data(changed)) is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@small
@given(payload=JSON, signer=st.sampled_from(["platform", "ca"]))
def test_signed_nonsense_gives_only_typed_errors(payload: object, signer: str) -> None:
    """A certificate that is properly signed but holds anything else is refused with `EvidenceError`."""
    platform, ca = genuine().endorsements
    if signer == "platform":
        platform = encode(seal(PLATFORM_KIND, payload, ca_key()))
    else:
        ca = encode(seal(CA_KIND, payload, root_key()))
    assert reason(msgspec.structs.replace(genuine(), endorsements=(platform, ca))) == "chain"


def test_certified_key_that_is_no_key_is_refused() -> None:
    """A certificate for a point of small order, under which anybody can sign, gives no valid signature."""
    neutral = bytes([1]) + bytes(31)
    assert reason(forged(platform={"public_key": neutral})) == "signature"
    assert reason(forged(ca={"public_key": neutral})) == "chain"


def test_ca_certificate_is_the_same_every_time() -> None:
    """The chain above the platform key is a constant, so verifiers and documents can cite it."""
    assert ca_certificate() == ca_certificate()
