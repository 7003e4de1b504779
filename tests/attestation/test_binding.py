"""Rules of the binding: one encoding, every field covered, every difference named."""

import re
from hashlib import sha512
from itertools import pairwise
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.attestation.binding import DOMAIN, PROTOCOL_VERSION, Binding, Expectation, require_bound
from aigovtool.attestation.model import Unchecked
from aigovtool.codec import decode, encode
from aigovtool.errors import AIGovToolError, EvidenceError, InvalidValueError

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "attestation.md"


def digest(byte: str) -> str:
    return "sha256:" + byte * 32


FIELDS: dict[str, Any] = {
    "role": "session",
    "audience": "consumer:radiology",
    "nonce": "11" * 32,
    "tls_spki": b"\x22" * 32,
    "hpke_key": b"\x33" * 32,
    "identity_key": b"\x44" * 32,
    "instance": "55" * 32,
    "custodian_root": "66" * 32,
    "configuration": digest("77"),
    "appraisal_policy": digest("88"),
    "manifests": (digest("99"), digest("aa")),
}
OTHER: dict[str, Any] = {
    "role": "boot",
    "audience": "consumer:oncology",
    "nonce": "11" * 31 + "12",
    "tls_spki": b"\x22" * 31 + b"\x23",
    "hpke_key": b"\x34" + b"\x33" * 31,
    "identity_key": b"\x44" * 31 + b"\x45",
    "instance": "55" * 31 + "56",
    "custodian_root": "67" + "66" * 31,
    "configuration": digest("78"),
    "appraisal_policy": digest("89"),
    "manifests": (digest("99"), digest("ab")),
}


def binding(**changes: Any) -> Binding:
    return Binding(**{**FIELDS, **changes})


def expectation(**changes: Any) -> Expectation:
    known = {
        "role": FIELDS["role"],
        "audience": FIELDS["audience"],
        "nonce": FIELDS["nonce"],
        "tls_spki": FIELDS["tls_spki"],
        "instance": FIELDS["instance"],
        "custodian_root": FIELDS["custodian_root"],
        "configuration": (FIELDS["configuration"],),
        "appraisal_policy": (FIELDS["appraisal_policy"],),
        "manifests": FIELDS["manifests"],
    }
    return Expectation(**{**known, **changes})


def as_list(value: Binding) -> list[object]:
    """Return the normative list, written a second time and independently of `encoded`."""
    return [
        DOMAIN,
        PROTOCOL_VERSION,
        value.role,
        value.audience,
        bytes.fromhex(value.nonce),
        value.tls_spki,
        value.hpke_key,
        value.identity_key,
        bytes.fromhex(value.instance),
        bytes.fromhex(value.custodian_root),
        value.configuration,
        value.appraisal_policy,
        list(value.manifests),
    ]


def spec_hex(heading: str) -> bytes:
    block = re.search(re.escape(heading) + r"\n\n```text\n(.*?)```", SPEC.read_text(), re.DOTALL)
    assert block is not None
    return bytes.fromhex("".join(block[1].split()))


def test_vector_of_the_spec_is_reproduced() -> None:
    """The encoding and the report data printed in the spec are those that the code makes."""
    assert binding().encoded() == spec_hex("E (552 bytes):")
    assert binding().report_data() == spec_hex("report_data:")
    assert binding().report_data() == sha512(binding().encoded()).digest()


@settings(derandomize=True, max_examples=60)
@given(audience=st.from_regex(r"[!-~]{1,128}", fullmatch=True), count=st.integers(0, 64))
def test_encoding_is_the_deterministic_cbor_of_an_independent_library(audience: str, count: int) -> None:
    """Our small encoder writes what cbor2 writes canonically, for every length of text and array that may occur."""
    value = binding(audience=audience, manifests=tuple(f"sha256:{number:064x}" for number in range(count)))
    assert value.encoded() == cbor2.dumps(as_list(value), canonical=True)
    assert cbor2.loads(value.encoded()) == as_list(value)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.fault(25)
def test_every_field_changes_the_report_data(field: str) -> None:
    """Swapping any single field gives other report data, and evidence over it is refused as another channel's."""
    swapped = binding(**{field: OTHER[field]} | ({"manifests": ()} if field == "role" else {}))
    assert swapped.report_data() != binding().report_data()
    with pytest.raises(EvidenceError) as caught:
        require_bound(swapped, binding().report_data(), expectation())
    assert caught.value.reason == "channel_binding"


@pytest.mark.parametrize("field", [f for f in FIELDS if f not in ("hpke_key", "identity_key")])
def test_claims_made_for_somebody_else_are_refused_by_name(field: str) -> None:
    """Genuine claims whose field differs from what the reader expects are refused with that field's reason."""
    claims = binding(**{field: OTHER[field]} | ({"manifests": ()} if field == "role" else {}))
    with pytest.raises(EvidenceError) as caught:
        require_bound(claims, claims.report_data(), expectation())
    assert caught.value.reason == f"binding_{field}"
    assert caught.value.fix is not None


def test_claims_that_match_are_accepted() -> None:
    """Claims that are covered and expected pass, also when the enclave holds more manifests than relied on."""
    require_bound(binding(), binding().report_data(), expectation())
    require_bound(binding(), binding().report_data(), expectation(manifests=(digest("99"),)))


def test_a_field_left_out_says_why() -> None:
    """A reader may leave out a field it does not know, in words; role, audience and nonce cannot be left out."""
    unknown = Unchecked(reason="not known yet")
    free = ("tls_spki", "instance", "custodian_root", "configuration", "appraisal_policy", "manifests")
    claims = binding(**{name: OTHER[name] for name in free})
    require_bound(claims, claims.report_data(), expectation(**dict.fromkeys(free, unknown)))
    for name in Expectation.__struct_fields__:
        fields = msgspec.structs.asdict(expectation())
        del fields[name]
        with pytest.raises(TypeError):
            Expectation(**fields)


def test_all_differences_are_named() -> None:
    """The message names every field that differs; the reason is the first in the order of the spec."""
    claims = binding(nonce=OTHER["nonce"], tls_spki=OTHER["tls_spki"], configuration=OTHER["configuration"])
    with pytest.raises(EvidenceError, match="nonce, tls_spki, configuration") as caught:
        require_bound(claims, claims.report_data(), expectation())
    assert caught.value.reason == "binding_nonce"


@pytest.mark.parametrize("index", range(64))
@pytest.mark.fault(25)
def test_all_64_bytes_are_compared(index: int) -> None:
    """Report data that differs in one byte anywhere is refused."""
    wrong = bytearray(binding().report_data())
    wrong[index] ^= 1
    with pytest.raises(EvidenceError) as caught:
        require_bound(binding(), bytes(wrong), expectation())
    assert caught.value.reason == "channel_binding"


@pytest.mark.parametrize("length", [0, 32, 63, 65])
@pytest.mark.fault(25)
def test_report_data_of_another_length_is_refused(length: int) -> None:
    """A prefix of the right report data is not the report data."""
    with pytest.raises(EvidenceError) as caught:
        require_bound(binding(), (binding().report_data() * 2)[:length], expectation())
    assert caught.value.reason == "channel_binding"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("role", "admin"),
        ("audience", ""),
        ("audience", "two words"),
        ("audience", "a" * 129),
        ("audience", "a\n"),
        ("nonce", "11" * 31),
        ("nonce", "AA" * 32),
        ("nonce", "11" * 32 + "\n"),
        ("tls_spki", b"\x22" * 31),
        ("hpke_key", b""),
        ("identity_key", b"\x44" * 33),
        ("instance", ""),
        ("custodian_root", "66" * 16),
        ("configuration", "77" * 32),
        ("appraisal_policy", "sha512:" + "88" * 32),
        ("manifests", (digest("aa"), digest("99"))),
        ("manifests", (digest("99"), digest("99"))),
        ("manifests", ("99",)),
        ("manifests", tuple(f"sha256:{number:064x}" for number in range(65))),
    ],
)
def test_a_field_out_of_its_domain_is_refused(field: str, value: object) -> None:
    """A binding is valid by construction, in code and from JSON alike."""
    with pytest.raises(InvalidValueError) as caught:
        binding(**{field: value})
    assert caught.value.reason == "bad_binding"
    raw = msgspec.to_builtins(binding()) | {field: msgspec.to_builtins(value)}
    with pytest.raises(InvalidValueError):
        decode(encode(raw), Binding)


def test_a_boot_names_no_manifests() -> None:
    """At boot there are no models yet, so a boot with manifests is not a boot."""
    with pytest.raises(InvalidValueError):
        binding(role="boot")
    assert binding(role="boot", manifests=()).manifests == ()


def test_claims_travel_as_json_and_lack_nothing() -> None:
    """Claims survive the wire, and a missing or additional member is an error."""
    assert decode(encode(binding()), Binding) == binding()
    raw = msgspec.to_builtins(binding())
    for name in raw:
        with pytest.raises(AIGovToolError):
            decode(encode({key: value for key, value in raw.items() if key != name}), Binding)
    with pytest.raises(InvalidValueError):
        decode(encode(raw | {"debug": True}), Binding)


@settings(derandomize=True, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(sorted(set(FIELDS) - {"role"})), st.booleans()), min_size=1, max_size=6))
def test_different_bindings_never_share_report_data(changes: list[tuple[str, bool]]) -> None:
    """Along any path of changes, two bindings have the same report data only if they are equal."""
    path = [binding()]
    for field, other in changes:
        path.append(msgspec.structs.replace(path[-1], **{field: (OTHER if other else FIELDS)[field]}))
    for first, second in pairwise(path):
        assert (first.report_data() == second.report_data()) == (first == second)
