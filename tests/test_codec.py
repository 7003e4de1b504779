"""The one parser: a value or a typed refusal for any bytes, and one encoding per signed value."""

import enum
import json
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool import codec, ids
from aigovtool.errors import InputError, InvalidValueError, MalformedError, TooLargeError
from aigovtool.ids import ModelId, Units
from aigovtool.limits import MAX_CONTROL_BODY_BYTES, MAX_INTEGER, MAX_JSON_DEPTH


class Colour(enum.Enum):
    RED = "red"


class Size(enum.StrEnum):
    SMALL = "small"
    LARGE = "large"


class Box(codec.Message):
    size: Size | None = None
    sizes: tuple[Size, ...] = ()
    pair: tuple[int, Size] | None = None
    by_name: dict[str, Size] = {}
    inner: "Box | int" = 0
    name: ModelId | None = None
    code: Annotated[str, codec.text_like("^[0-9]{3}$", "three digits")] = "000"


class Counted(codec.Message):
    units: Units


class Rich(codec.Message):
    units: Units
    ratio: float = 0.0
    name: str = ""
    data: bytes = b""
    flag: bool = False
    colour: Colour = Colour.RED
    word: Literal["yes", "no"] = "no"
    parts: list[Counted] = []
    rows: dict[str, int] = {}


class Tree(codec.Message):
    leaf: list["Tree"] = []


class Left(codec.Message, tag="left"):
    pass


class Right(codec.Message, tag="right"):
    pass


def as_number(literal: str) -> bytes:
    return b'{"units":' + literal.encode() + b"}"


# Each is taken by Python's json, by int() or by msgspec's lax mode, and none is a count of units.
NUMBER_TRICKS = {
    "true is not one": ("true", InvalidValueError, "schema"),
    "false is not zero": ("false", InvalidValueError, "schema"),
    "null is not zero": ("null", InvalidValueError, "schema"),
    "text is not a number": ('"1"', InvalidValueError, "schema"),
    "empty text is not zero": ('""', InvalidValueError, "schema"),
    "a list is not a number": ("[1]", InvalidValueError, "schema"),
    "an object is not a number": ("{}", InvalidValueError, "schema"),
    "a whole float is not an integer": ("1.0", InvalidValueError, "schema"),
    "an exponent is not an integer": ("1e3", InvalidValueError, "schema"),
    "negative": ("-1", InvalidValueError, "schema"),
    "a float beyond 2**53": ("9007199254740992.0", InvalidValueError, "schema"),
    "2**53": (str(2**53), MalformedError, "integer_too_large"),
    "minus 2**53": (str(-(2**53)), MalformedError, "integer_too_large"),
    "2**63 overflows SQLite": (str(2**63), MalformedError, "integer_too_large"),
    "2**64 wraps to zero": (str(2**64), MalformedError, "integer_too_large"),
    "a million digits": ("9" * 1_000_000, MalformedError, "integer_too_large"),
    "a million zeros after one": ("1" + "0" * 1_000_000, MalformedError, "integer_too_large"),
    "infinity by overflow": ("1e400", MalformedError, "not_finite"),
    "minus infinity by overflow": ("-1e400", MalformedError, "not_finite"),
    "a million digits and a half": ("9" * 1_000_000 + ".5", MalformedError, "not_finite"),
    "NaN": ("NaN", MalformedError, "not_json"),
    "Infinity": ("Infinity", MalformedError, "not_json"),
    "-Infinity": ("-Infinity", MalformedError, "not_json"),
    "full-width digits": ("１２", MalformedError, "not_json"),
    "Arabic digits": ("٣", MalformedError, "not_json"),
    "an underscore": ("1_0", MalformedError, "not_json"),
    "hexadecimal": ("0x10", MalformedError, "not_json"),
    "octal": ("0o7", MalformedError, "not_json"),
    "a leading zero": ("01", MalformedError, "not_json"),
    "a plus sign": ("+1", MalformedError, "not_json"),
    "a bare point": (".5", MalformedError, "not_json"),
    "a trailing point": ("1.", MalformedError, "not_json"),
    "two signs": ("--1", MalformedError, "not_json"),
    "two numbers": ("1 2", MalformedError, "not_json"),
    "a comment": ("1/**/", MalformedError, "not_json"),
    "absent": ("", MalformedError, "not_json"),
}


@pytest.mark.parametrize(("literal", "error", "reason"), NUMBER_TRICKS.values(), ids=NUMBER_TRICKS)
def test_number_tricks_are_refused(literal: str, error: type[InputError], reason: str) -> None:
    """No spelling that some parser would take for a number becomes a count of units."""
    with pytest.raises(error) as caught:
        codec.decode(as_number(literal), Counted, max_bytes=2_000_000)
    assert caught.value.reason == reason


@pytest.mark.parametrize("number", [0, 1, MAX_INTEGER - 1, MAX_INTEGER])
def test_the_whole_domain_of_units_is_read_exactly(number: int) -> None:
    """Both ends of the domain are inside it."""
    assert codec.decode(as_number(str(number)), Counted) == Counted(units=number)


@pytest.mark.parametrize("number", [-MAX_INTEGER, MAX_INTEGER])
def test_the_integer_bound_is_the_same_on_both_sides(number: int) -> None:
    """The sign does not use up one of the digits that an integer may have."""
    assert codec.decode(b'{"a":%d}' % number, dict[str, int]) == {"a": number}


NOT_JSON = {
    "nothing": (b"", "not_json"),
    "white space": (b" \n", "not_json"),
    "byte-order mark": (b'\xef\xbb\xbf{"units":1}', "not_json"),
    "UTF-16": ('{"units":1}'.encode("utf-16"), "not_utf8"),
    "Latin-1": (b'{"n\xe4me":1}', "not_utf8"),
    "overlong UTF-8": (b'{"\xc0\xaf":1}', "not_utf8"),
    "raw surrogate": (b'{"\xed\xa0\x80":1}', "not_utf8"),
    "NUL after the value": (b'{"units":1}\x00', "not_json"),
    "second value": (b'{"units":1}{"units":2}', "not_json"),
    "truncated": (b'{"units":1', "not_json"),
    "trailing comma": (b'{"units":1,}', "not_json"),
    "single quotes": (b"{'units':1}", "not_json"),
    "bare key": (b"{units:1}", "not_json"),
    "control character in text": (b'{"a":"\x01"}', "not_json"),
    "line break in text": (b'{"a":"\n"}', "not_json"),
    "bad escape": (rb'{"a":"\x41"}', "not_json"),
    "closing before opening": (b"]" * 1000 + b"[" * 1020, "not_json"),
    "crossed brackets": (b"[{]}", "not_json"),
    "unclosed text": (b'"' + b"[" * 1000, "not_json"),
    "duplicate key": (b'{"units":1,"units":2}', "duplicate_key"),
    "duplicate key by escape": (rb'{"units":1,"\u0075nits":2}', "duplicate_key"),
    "duplicate key inside": (b'{"a":[{"b":1,"b":1}]}', "duplicate_key"),
    "lone high surrogate": (rb'{"a":"\ud800"}', "not_unicode"),
    "lone low surrogate": (rb'{"a":"\udfff"}', "not_unicode"),
    "reversed surrogates": (rb'{"a":"\ude00\ud83d"}', "not_unicode"),
    "lone surrogate in a key": (rb'{"\uD800":1}', "not_unicode"),
    "lone surrogate deep inside": (rb'[{"a":[["x",{"b":"\uDBFF"}]]}]', "not_unicode"),
}


@pytest.mark.parametrize(("data", "reason"), NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_not_strict_json_is_malformed(data: bytes, reason: str) -> None:
    """Bytes that two parsers could read differently are not read at all."""
    with pytest.raises(MalformedError) as caught:
        codec.decode(data, Rich)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"size": "huge"}, "Expected small or large - at `$.size`"),
        ({"sizes": ["small", "` - at `$.name`"]}, "Expected small or large - at `$.sizes[1]`"),
        ({"pair": [1, "x"]}, "Expected small or large - at `$.pair[1]`"),
        ({"by_name": {"a.b": "x"}}, "Expected small or large - at `$.by_name[...]`"),
        ({"inner": {"inner": {"size": "x"}}}, "Expected small or large - at `$.inner.inner.size`"),
        ({"code": "12"}, "Expected three digits - at `$.code`"),
        (
            {"name": "^"},
            "Expected 1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or digit at both ends - at `$.name`",
        ),
    ],
)
def test_what_is_allowed_is_said_in_words(value: object, words: str) -> None:
    """Nobody is shown a pattern, and whoever names none of a few values is told which there are."""
    with pytest.raises(InvalidValueError) as caught:
        codec.decode(json.dumps(value).encode(), Box)
    assert caught.value.message == words


def test_every_pattern_of_a_message_has_words() -> None:
    """A pattern of which the codec knows nothing would be shown as it is."""
    source = Path(codec.__file__).parent
    shown = {path.name for path in source.rglob("*.py") if "Meta(pattern=" in path.read_text(encoding="utf-8")}
    assert shown == {"codec.py", "ids.py"}
    said = re.findall(r"Meta\(pattern=(\w+)\)", (source / "ids.py").read_text(encoding="utf-8"))
    assert {vars(ids)[name] for name in said} <= codec._IN_WORDS.keys()


def test_a_pair_of_surrogate_escapes_is_one_character() -> None:
    """The surrogate rule does not refuse what RFC 8259 section 7 allows."""
    assert codec.decode(rb'{"units":1,"name":"\ud83d\ude00"}', Rich).name == "\U0001f600"


def test_nesting_is_allowed_up_to_the_bound_and_refused_above() -> None:
    """The depth bound is exact, and brackets inside text do not count."""
    depth = MAX_JSON_DEPTH
    assert codec.decode(b"[" * depth + b"]" * depth, list[object])
    text = b'"' + b"[{" * 500 + rb"\"[" + b'"'
    assert codec.decode(b"[" + text + b"]", list[str]) == ["[{" * 500 + '"[']
    with pytest.raises(MalformedError) as caught:
        codec.decode(b"[" * (depth + 1) + b"]" * (depth + 1), list[object])
    assert caught.value.reason == "too_deep"


def nesting(data: bytes) -> list[int]:
    """Return where brackets stand that are not inside text, read byte by byte."""
    found, inside, skip = [], False, False
    for at, byte in enumerate(data):
        if skip:
            skip = False
        elif inside:
            skip, inside = byte == ord("\\"), byte != ord('"')
        elif byte == ord('"'):
            inside = True
        elif byte in b"[]{}":
            found.append(at)
    return found


@given(st.lists(st.sampled_from([b'"', b"\\", b"[", b"]", b"{", b"}", b"a", b"\n"]), max_size=60).map(b"".join))
def test_brackets_are_seen_as_a_plain_reader_sees_them(data: bytes) -> None:
    """What is text and what is structure does not depend on how well this Python's regular expressions work."""
    seen = [token.start() for token in codec._STRUCTURE_RE.finditer(data) if token.group()[:1] != b'"']
    assert seen == nesting(data)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_a_hundred_thousand_brackets_do_not_exhaust_the_stack(opening: bytes) -> None:
    """Depth is refused before the recursive parser sees it."""
    with pytest.raises(MalformedError) as caught:
        codec.decode(opening * 100_000, Tree)
    assert caught.value.reason == "too_deep"


def test_size_is_checked_before_anything_is_parsed() -> None:
    """One byte over the bound is refused with a class of its own, whatever the bytes are."""
    data = codec.encode(Counted(units=1))
    assert codec.decode(data, Counted, max_bytes=len(data))
    for refused, bound in ((data, len(data) - 1), (b"\xff" * (MAX_CONTROL_BODY_BYTES + 1), MAX_CONTROL_BODY_BYTES)):
        with pytest.raises(TooLargeError) as caught:
            codec.decode(refused, Counted, max_bytes=bound)
        assert caught.value.reason == "json_too_large"


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b"1", b"null", b'{"units":1,"unit":1}', b'{"UNITS":1}', b'{"units":1,"word":"maybe"}']
)
def test_strict_json_of_another_shape_is_an_invalid_value(data: bytes) -> None:
    """Missing and unknown fields, other types and values outside a set are refused."""
    with pytest.raises(InvalidValueError) as caught:
        codec.decode(data, Rich)
    assert caught.value.reason == "schema"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"units":1,"word":"a private prompt"}', Rich),
        (b'{"units":1,"colour":"a private prompt"}', Rich),
        (rb'{"units":1,"colour":"it\u0027s a private \u0027 - at `$.x` prompt"}', Rich),
        (b'{"units":1,"name":["a private prompt"]}', Rich),
        (b'{"units":1,"data":"a private prompt"}', Rich),
        (b'{"type":"a private prompt"}', Left | Right),
    ],
)
def test_a_refusal_names_the_place_and_never_the_value(data: bytes, kind: type[Rich]) -> None:
    """What a sender wrote does not travel into errors, and from there into logs."""
    with pytest.raises(InvalidValueError) as caught:
        codec.decode(data, kind)
    assert "private" not in str(caught.value)
    assert "$." in str(caught.value)


def test_a_refusal_stays_short_and_printable() -> None:
    """An unknown field's name may be long or hold terminal controls; the message may not."""
    for name in ("z" * 900_000, "\x1b[2J\u202e"):
        with pytest.raises(InvalidValueError) as caught:
            codec.decode(json.dumps({"units": 1, name: 1}).encode(), Counted)
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()


SECOND_ENCODINGS = {
    "space": b'{"units": 1}',
    "line break after": b'{"units":1}\n',
    "escaped key": rb'{"\u0075nits":1}',
    "minus zero": b'{"units":-0}',
}


@pytest.mark.parametrize("data", SECOND_ENCODINGS.values(), ids=SECOND_ENCODINGS)
def test_a_second_encoding_of_a_signed_value_is_refused(data: bytes) -> None:
    """Readable, but signed bytes have one spelling only, so that their digest names their value."""
    assert codec.decode(data, Counted).units in {0, 1}
    with pytest.raises(MalformedError) as caught:
        codec.decode_signed(data, Counted)
    assert caught.value.reason == "not_canonical"


@pytest.mark.parametrize(
    "change",
    [
        (b'"ratio":0.5', b'"ratio":0.50'),
        (b'"ratio":0.5', b'"ratio":5e-1'),
        (b'"data":"QQ=="', b'"data":"QR=="'),
        (b'"name":"\xc3\xa9"', rb'"name":"\u00e9"'),
        (b'"name":"\xc3\xa9"', b'"name":"\xc3\xa9/"', b'"name":"\xc3\xa9\\/"'),
        (b'"a":1,"b":2', b'"b":2,"a":1'),
        (b'"flag":false,', b""),
    ],
)
def test_every_type_has_one_signed_spelling(change: tuple[bytes, ...]) -> None:
    """Numbers, base64, text, key order and defaults cannot be respelled under a signature."""
    value = Rich(units=1, ratio=0.5, data=b"A", name="é", rows={"b": 2, "a": 1})
    data = codec.encode(value)
    assert codec.decode_signed(data, Rich) == value
    changed = data.replace(change[0], change[-1])
    assert changed != data
    with pytest.raises(MalformedError) as caught:
        codec.decode_signed(changed, Rich)
    assert caught.value.reason == "not_canonical"


def test_text_that_is_not_unicode_is_not_encoded() -> None:
    """A command-line argument that was not UTF-8 ends in a typed refusal."""
    with pytest.raises(InvalidValueError) as caught:
        codec.encode(Rich(units=1, name="\udcff"))
    assert caught.value.reason == "not_unicode"


def test_messages_are_frozen_and_named() -> None:
    """Nobody downstream can change what was verified, or mix up two fields by position."""
    with pytest.raises(AttributeError):
        codec.decode(b'{"units":1}', Counted).units = 2
    with pytest.raises(TypeError):
        Counted(1)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_typed_error(data: bytes) -> None:
    """Nothing but the documented errors leaves the parser."""
    for kind in (Counted, Rich, Tree, Left | Right):
        for read in (codec.decode, codec.decode_signed):
            try:
                value = read(data, kind)  # type: ignore[arg-type]
            except InputError as error:
                assert error.reason
            else:
                assert codec.decode(codec.encode(value), kind) == value  # type: ignore[arg-type]


JSON_PIECES = st.sampled_from(
    [
        *'{}[]:,"0123456789-+.eE \\/',
        *("true", "false", "null", "NaN", "Infinity", '"units"', '"leaf"', '"parts"', '"rows"', '"data"', '"type"'),
        *(r"\u", r"\ud800", r"\"", "1e400", "9007199254740992", '{"units":1}', '"left"', "é", "\x00", "\ufeff"),
    ]
)


@given(st.lists(JSON_PIECES, max_size=40).map("".join))
def test_any_json_like_text_gives_a_value_or_a_typed_error(text: str) -> None:
    """The same with bytes that get deeper into the parser than random ones."""
    for kind in (Counted, Rich, Tree, Left | Right):
        try:
            codec.decode_signed(text.encode(), kind)  # type: ignore[arg-type]
        except InputError as error:
            assert error.reason


JSON_VALUES: st.SearchStrategy[object] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_every_value_survives_its_encoding(value: object) -> None:
    """Encoding and parsing are inverse, and agree with Python's own reader."""
    data = codec.encode(value)
    assert codec.decode(data, object) == value
    assert json.loads(data) == value
    assert codec.encode(codec.decode(data, object)) == data


@given(
    st.builds(
        Rich,
        units=st.integers(0, MAX_INTEGER),
        ratio=st.floats(allow_nan=False, allow_infinity=False),
        name=st.text(st.characters(exclude_categories=["Cs"])),
        data=st.binary(),
        rows=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-9, 9), max_size=5),
    ),
    st.data(),
)
def test_changing_one_byte_of_a_signed_encoding_never_keeps_its_value(value: Rich, data: st.DataObject) -> None:
    """There are no bytes in an encoding that its value does not depend on."""
    encoded = bytearray(codec.encode(value))
    assert codec.decode_signed(bytes(encoded), Rich) == value
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = codec.decode_signed(bytes(encoded), Rich)
    except InputError:
        return
    assert msgspec.structs.astuple(changed) != msgspec.structs.astuple(value)


def test_a_bound_on_a_number_of_a_message_is_enforced() -> None:
    """Constraints of annotations are applied, also through aliases."""

    class Narrow(codec.Message):
        n: Annotated[int, msgspec.Meta(ge=2, le=3)]

    assert [codec.decode(b'{"n":%d}' % n, Narrow).n for n in (2, 3)] == [2, 3]
    for n in (1, 4):
        with pytest.raises(InvalidValueError):
            codec.decode(b'{"n":%d}' % n, Narrow)


LONG_JUNK = {
    "empty lists": (b"[" + b"[]," * 300_000 + b"[]]", InvalidValueError, "schema"),
    "numbers where text belongs": (b'{"text":[' + b"1," * 400_000 + b"1]}", InvalidValueError, "schema"),
    "fields that nobody knows": (
        b"{" + b",".join(b'"%d":1' % number for number in range(80_000)) + b"}",
        InvalidValueError,
        "schema",
    ),
    "text without an end": (b'{"text":"' + b"a" * 900_000, MalformedError, "not_json"),
    "bytes that are no text": (b'{"text":"' + b"\xff" * 900_000 + b'"}', MalformedError, "not_json"),
    "brackets": (b"[" * 900_000, InvalidValueError, "schema"),
}


class Letter(codec.Message):
    text: str


@pytest.mark.parametrize(("data", "kind", "reason"), LONG_JUNK.values(), ids=LONG_JUNK.keys())
def test_long_junk_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, data: bytes, kind: type[InputError], reason: str
) -> None:
    """Attack: a MiB of it takes the strict parser up to a third of a second, in which a server does nothing else."""
    monkeypatch.setattr(codec, "_parse", lambda _: pytest.fail("all of it was parsed"))
    for read in (codec.require_likely, codec.decode_signed):
        with pytest.raises(kind) as caught:
            read(data, Letter)
        assert caught.value.reason == reason


def test_what_is_likely_is_still_parsed_strictly() -> None:
    """The look at long data lets pass what the parser refuses, and nothing short is looked at so."""
    twice = b'{"text":"a","text":"' + b"a" * 5_000 + b'"}'
    codec.require_likely(twice, Letter)
    with pytest.raises(MalformedError) as caught:
        codec.decode_signed(twice, Letter)
    assert caught.value.reason == "duplicate_key"
    codec.require_likely(b"[[[", Letter)
    long = codec.encode(Letter(text="a" * 5_000))
    assert codec.decode_signed(long, Letter) == Letter(text="a" * 5_000)
