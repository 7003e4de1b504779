"""Names, digests and identifiers have exactly one spelling each."""

from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool import codec
from aigovtool.errors import InvalidValueError
from aigovtool.ids import (
    BorrowerId,
    ConsumerId,
    Digest,
    InstanceId,
    KeyId,
    LeaseId,
    MessageId,
    Millis,
    ModelId,
    Nonce,
    OperatorId,
    RequestKey,
    Units,
    digest_of,
    instance_id_of,
    key_id_of,
    parse_digest,
    parse_name,
)
from aigovtool.limits import MAX_INTEGER

GOOD_NAMES = ["a", "0", "a" * 63, "covid-xray", "v1.2_final", "a..b", "9lives"]
BAD_NAMES = {
    "empty": "",
    "too long": "a" * 64,
    "upper case": "Covid",
    "final newline": "covid\n",
    "newline inside": "co\nvid",
    "space": "covid xray",
    "leading dot hides a file": ".covid",
    "parent folder": "..",
    "path": "a/b",
    "backslash": "a\\b",
    "leading hyphen is an option": "-rf",
    "trailing hyphen": "covid-",
    "trailing dot": "covid.",
    "NUL": "covid\x00",
    "full-width": "ｃovid",
    "Cyrillic look-alike": "соvid",
    "Arabic digit": "covid٣",
    "accent": "modèle",
    "percent": "a%2fb",
    "colon of a URN": "a:b",
    "template": "{{a}}",
    "terminal control": "\x1b[31m",
}


class Everything(codec.Message):
    model: ModelId
    borrower: BorrowerId
    consumer: ConsumerId
    operator: OperatorId
    instance: InstanceId
    lease: LeaseId
    message: MessageId
    key: KeyId
    nonce: Nonce
    digest: Digest
    request: RequestKey
    units: Units
    at_ms: Millis


GOOD: dict[str, str | int] = {
    **dict.fromkeys(("model", "borrower", "consumer", "operator"), "name-1"),
    **dict.fromkeys(("instance", "key", "nonce"), "ab" * 32),
    **dict.fromkeys(("lease", "message"), "ab" * 16),
    "digest": "sha256:" + "ab" * 32,
    "request": "Req-1.a:b_c",
    **dict.fromkeys(("units", "at_ms"), 1),
}


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_is_returned_as_it_is(name: str) -> None:
    """A valid name is not normalised, because there is nothing to normalise."""
    assert parse_name(name, "model") == name


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_is_refused_by_parser_and_codec(name: str) -> None:
    """The command line and the wire have the same rule, and the error can be printed safely."""
    with pytest.raises(InvalidValueError) as caught:
        parse_name(name, "model")
    assert caught.value.reason == "bad_name"
    assert caught.value.fix
    assert str(caught.value).isprintable()
    for field in ("model", "borrower", "consumer", "operator"):
        with pytest.raises(InvalidValueError):
            codec.convert({**GOOD, field: name}, Everything)


def test_a_huge_name_makes_a_short_error() -> None:
    """An error does not repeat a megabyte of input."""
    with pytest.raises(InvalidValueError) as caught:
        parse_name("A" * 1_000_000, "model")
    assert len(str(caught.value)) < 200


HEX_FIELDS = ["instance", "lease", "message", "key", "nonce", "digest"]


@pytest.mark.parametrize("field", HEX_FIELDS)
@pytest.mark.parametrize(
    "spoil",
    [
        str.upper,
        lambda text: text[:-1],
        lambda text: text + "a",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text[:-1] + "g",
        lambda text: text[:-1] + "１",
        lambda _: "",
        lambda text: "0x" + text[2:],
    ],
    ids=["upper", "short", "long", "newline", "space", "not hex", "full-width", "empty", "0x"],
)
def test_hexadecimal_has_one_spelling(field: str, spoil: Callable[[str], str]) -> None:
    """Two spellings of one identifier would be two rows, two leases, two replays."""
    assert codec.convert(GOOD, Everything)
    with pytest.raises(InvalidValueError):
        codec.convert({**GOOD, field: spoil(str(GOOD[field]))}, Everything)


@pytest.mark.parametrize("key", ["", "a" * 65, "a b", "a\n", "a/b", "ä", "a\x00"])
def test_a_request_key_is_short_and_plain(key: str) -> None:
    """A consumer's idempotency key goes into a header and a log line."""
    with pytest.raises(InvalidValueError):
        codec.convert({**GOOD, "request": key}, Everything)


@pytest.mark.parametrize("field", ["units", "at_ms"])
@pytest.mark.parametrize("value", [-1, MAX_INTEGER + 1, 1.0, True, "1", None])
def test_counts_are_integers_in_their_domain(field: str, value: object) -> None:
    """No negative, huge, fractional, boolean or textual number of units or milliseconds."""
    with pytest.raises(InvalidValueError):
        codec.convert({**GOOD, field: value}, Everything)
    assert codec.convert({**GOOD, field: MAX_INTEGER}, Everything)


def test_digests_are_of_the_bytes() -> None:
    """A digest says its algorithm and equals the one that anybody else computes."""
    assert digest_of(b"abc") == "sha256:" + sha256(b"abc").hexdigest()
    assert digest_of(bytearray(b"abc")) == digest_of(memoryview(b"abc")) == digest_of(b"abc")
    assert parse_digest(digest_of(b"")) == digest_of(b"")
    assert key_id_of(b"k" * 32) == sha256(b"k" * 32).hexdigest()


@pytest.mark.parametrize(
    "text",
    ["", "ab" * 32, "sha1:" + "ab" * 20, "sha256:" + "AB" * 32, "SHA256:" + "ab" * 32, "sha256:" + "ab" * 32 + "\n"],
)
def test_another_spelling_of_a_digest_is_refused(text: str) -> None:
    """Algorithm and case are part of the one spelling."""
    with pytest.raises(InvalidValueError) as caught:
        parse_digest(text)
    assert caught.value.reason == "bad_digest"


def test_an_instance_id_depends_on_each_part_and_its_place() -> None:
    """A new boot, another identity key or another HPKE key is another instance."""
    parts = [b"\x01" * 32, b"\x02" * 32, b"\x03" * 32]
    ids = {instance_id_of(*order) for order in ((parts[0], parts[1], parts[2]), (parts[1], parts[0], parts[2]))}
    ids |= {instance_id_of(parts[0], parts[1], b"\x04" * 32), instance_id_of(parts[0], b"\x04" * 32, parts[2])}
    assert len(ids) == 4
    assert (
        instance_id_of(parts[0], parts[1], parts[2])
        == sha256(b"aigovtool instance v1\x00" + b"".join(parts)).hexdigest()
    )


@pytest.mark.parametrize("lengths", [(31, 33, 32), (32, 32, 0), (33, 32, 32), (0, 0, 96)])
def test_parts_of_an_instance_id_cannot_flow_into_each_other(lengths: tuple[int, int, int]) -> None:
    """Plain concatenation is safe only because every length is fixed."""
    first, second, third = (bytes(length) for length in lengths)
    with pytest.raises(InvalidValueError) as caught:
        instance_id_of(first, second, third)
    assert caught.value.reason == "bad_length"


@given(st.text(max_size=80))
def test_parser_and_codec_agree_on_every_text(text: str) -> None:
    """There is one rule for names and one for digests, wherever they arrive."""
    for field, parse in (("model", lambda: parse_name(text, "model")), ("digest", lambda: parse_digest(text))):
        outcomes = set()
        for act in (parse, lambda field=field: codec.convert({**GOOD, field: text}, Everything)):
            try:
                act()
                outcomes.add(True)
            except InvalidValueError:
                outcomes.add(False)
        assert len(outcomes) == 1
