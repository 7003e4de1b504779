"""The one parser and the one encoder for structured data from outside.

Rules, because the same bytes must mean the same thing to every party that sees a signature over them:

1. UTF-8 JSON (RFC 8259) within a stated size; no byte-order mark, nothing but white space around the value.
2. Nesting is bounded *before* parsing, so that no input can exhaust the stack.
3. Duplicate keys, `NaN`, `Infinity`, integers beyond 2**53 - 1 and lone surrogates are errors.
   (Python's own `json` accepts all of these; msgspec accepts some.)
4. Unknown fields, wrong types and values outside their domain are errors: `true` is not 1, "1" is not 1.
5. `decode_signed` also demands that the bytes are exactly what `encode` would write: one encoding per value.

No value reaches the rest of the program except as a frozen `msgspec.Struct`.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeVar, dataclass_transform

import msgspec
from msgspec import inspect

from aigovtool.errors import InvalidValueError, MalformedError, TooLargeError
from aigovtool.ids import CHIP_PATTERN, DIGEST_PATTERN, HEX16_PATTERN, HEX32_PATTERN, NAME_PATTERN, REQUEST_KEY_PATTERN
from aigovtool.limits import MAX_CONTROL_BODY_BYTES, MAX_INTEGER, MAX_JSON_DEPTH

T = TypeVar("T")

# A string literal is skipped as a whole, so that brackets inside it do not count as nesting. The closing
# quote is optional and the repetition possessive: an unclosed string is one match, not n attempts of O(n).
_STRUCTURE_RE: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)

# msgspec quotes a wrong enum value or tag, as repr() does; greedy, because the value may hold quotes and
# " - at `$" itself, while the path of field names that follows is ours.
_QUOTED_VALUE_RE: Final = re.compile(r"""value ['"].*['"]""", re.DOTALL)
_MAX_MESSAGE_CHARS: Final = 200
#: Shorter data is parsed in a third of a millisecond, whatever it is.
_LONG_BYTES: Final = 1 << 10
#: What msgspec says first of a value that is none of an enumeration, and where the value is: the path has our names.
_NO_MEMBER: Final = "Invalid enum value"
_PATH_RE: Final = re.compile(r" - at `\$([^`]*)`$")
_PATH_PART_RE: Final = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")

#: What a pattern allows, in words: errors are read by people who cannot be asked to read patterns.
_IN_WORDS: Final = {
    NAME_PATTERN: "1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or digit at both ends",
    HEX16_PATTERN: "32 lower-case hexadecimal digits",
    HEX32_PATTERN: "64 lower-case hexadecimal digits",
    DIGEST_PATTERN: "sha256: and 64 lower-case hexadecimal digits",
    CHIP_PATTERN: "1 to 64 bytes in lower-case hexadecimal",
    REQUEST_KEY_PATTERN: "1 to 64 of A-Z, a-z, 0-9, '.', '_', ':' and '-'",
}


def text_like(pattern: str, words: str) -> msgspec.Meta:
    """Return what holds a text to a pattern, which errors tell in `words`: "expected `words`"."""
    _IN_WORDS[pattern] = words
    return msgspec.Meta(pattern=pattern)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _MessageType(msgspec.StructMeta):
    """Makes every message keyword-only, and tells type checkers so, without repeating it per class.

    msgspec inherits `frozen` and `forbid_unknown_fields`, but applies `kw_only` to one class alone.
    """

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        **options: Any,  # noqa: ANN401 -- whatever msgspec's own metaclass takes
    ) -> "_MessageType":
        return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **options})


class Message(msgspec.Struct, metaclass=_MessageType, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is read from outside: frozen, keyword-only, no unknown fields."""


def encode(value: object) -> bytes:
    """Return the only encoding of `value`: compact JSON, keys of mappings sorted, UTF-8.

    Raises:
        InvalidValueError: with reason `not_unicode` for text with a lone surrogate, which is how Python
            hands over command-line arguments and file names that are not UTF-8.
    """
    try:
        return msgspec.json.encode(value, order="deterministic")
    except UnicodeEncodeError:
        raise InvalidValueError("text is not valid Unicode", reason="not_unicode") from None


def decode(data: bytes, kind: type[T], *, max_bytes: int = MAX_CONTROL_BODY_BYTES) -> T:
    """Parse untrusted JSON into `kind`.

    Raises:
        TooLargeError: more than `max_bytes`.
        MalformedError: not strict JSON (rules 1 to 3).
        InvalidValueError: strict JSON, but not a `kind` (rule 4).
    """
    if len(data) > max_bytes:
        raise TooLargeError(f"{len(data)} bytes of JSON; at most {max_bytes} are read", reason="json_too_large")
    return convert(_parse(data), kind)


def decode_signed(data: bytes, kind: type[T], *, max_bytes: int = MAX_CONTROL_BODY_BYTES) -> T:
    """Parse bytes whose signature was verified; also refuses any second encoding of the same value.

    Raises:
        MalformedError: with reason `not_canonical` when the bytes are not the encoding of their value.
        AIGovToolError: as `decode`, and for long data as `require_likely`.
    """
    require_likely(data, kind)
    value = decode(data, kind, max_bytes=max_bytes)
    if encode(value) != data:
        raise MalformedError("signed JSON is not in its only encoding", reason="not_canonical")
    return value


def convert(value: object, kind: type[T]) -> T:
    """Turn parsed JSON into `kind`.

    Raises:
        InvalidValueError: naming the path of the first wrong value, never the value itself.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise _no_kind(error, kind) from None


def require_likely(data: bytes, kind: type) -> None:
    """Refuse long data at its first value that has no place in a `kind`, before all of it becomes objects.

    `decode` makes these first: of a MiB of empty lists in 0.3 s, in which no other thread does anything. What passes
    here need not pass there.

    Raises:
        InvalidValueError, MalformedError: it is no `kind` (`schema`), or no JSON (`not_json`).
    """
    if len(data) <= _LONG_BYTES:
        return
    try:
        msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _no_kind(error, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedError("not JSON", reason="not_json") from None


def _no_kind(error: msgspec.ValidationError, kind: object) -> InvalidValueError:
    return InvalidValueError(_without_values(_in_words(str(error), kind)), reason="schema")


def _in_words(message: str, kind: object) -> str:
    """Return msgspec's message with words for patterns, and with the values of an enumeration."""
    if message.startswith(_NO_MEMBER):
        found = _PATH_RE.search(message)
        members = _members(kind, "" if found is None else found[1])
        where = "" if found is None else found[0]
        return f"Expected {' or '.join(members)}{where}" if members else message
    for pattern, words in _IN_WORDS.items():
        message = message.replace(f"`str` matching regex {pattern!r}", words)
    return message


#: Kinds are few, and all ours; looking into one takes as long as reading a thousand messages.
_type_of: Final = lru_cache(maxsize=64)(inspect.type_info)


def _members(kind: object, path: str) -> tuple[str, ...]:
    """Return the values of the enumeration at `path` in `kind`."""
    nodes: list[inspect.Type] = [_type_of(kind)]
    for part in _PATH_PART_RE.finditer(path):
        nodes = [below for node in nodes for plain in _plain(node) for below in _below(plain, part[1])]
    enums = [plain.cls for node in nodes for plain in _plain(node) if isinstance(plain, inspect.EnumType)]
    return tuple(str(member.value) for enum in enums for member in enum)


def _plain(node: inspect.Type) -> Iterator[inspect.Type]:
    """Yield a type without what is said about it; of a union all of its types."""
    match node:
        case inspect.Metadata(type=inner):
            yield from _plain(inner)
        case inspect.UnionType(types=types):
            for one in types:
                yield from _plain(one)
        case _:
            yield node


def _below(node: inspect.Type, name: str | None) -> Iterator[inspect.Type]:
    """Yield the type of the member with this name, or (None) of the elements."""
    match node:
        case inspect.StructType(fields=fields):
            yield from (field.type for field in fields if field.encode_name == name)
        case inspect.CollectionType(item_type=item) if name is None:
            yield item
        case inspect.TupleType(item_types=items) if name is None:
            yield from items
        case inspect.DictType(value_type=value) if name is None:
            yield value


def _without_values(message: str) -> str:
    """Return msgspec's message without the sender's enum values, long field names or terminal controls."""
    message = _QUOTED_VALUE_RE.sub("value", message)
    shown = "".join(character if character.isprintable() else "?" for character in message[:_MAX_MESSAGE_CHARS])
    return shown if len(message) <= _MAX_MESSAGE_CHARS else shown + "..."


def _parse(data: bytes) -> object:
    _check_depth(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8 at byte {error.start}", reason="not_utf8") from None
    try:
        value = _JSON.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error.msg} at character {error.pos}", reason="not_json") from None
    if r"\u" in text:
        _refuse_surrogates(value)
    return value


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_JSON_DEPTH:  # those in strings too: it cannot be deeper than that
        return
    depth = 0
    for token in _STRUCTURE_RE.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise MalformedError(f"JSON nested deeper than {MAX_JSON_DEPTH} levels", reason="too_deep")
        elif first in b"]}":
            depth -= 1


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedError("a JSON object has a key twice", reason="duplicate_key")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedError(f"{name} is not JSON", reason="not_json")


def _bounded_int(digits: str) -> int:
    # The length is checked first: converting a million digits takes quadratic time.
    if len(digits) > 17 or abs(value := int(digits)) > MAX_INTEGER:
        raise MalformedError("an integer is beyond 2**53 - 1", reason="integer_too_large")
    return value


def _finite_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise MalformedError("a number overflows to infinity", reason="not_finite")
    return value


#: Made once: `json.loads` with hooks makes one for each text.
_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_constant=_refuse_constant,
    parse_int=_bounded_int,
    parse_float=_finite_float,
)


def _refuse_surrogates(value: object) -> None:
    r"""Refuse lone surrogates, which only a \u escape can smuggle in and which cannot be encoded again."""
    walk: dict[type, Callable[[Any], list[object]]] = {
        dict: lambda node: [*node.keys(), *node.values()],
        list: list,
    }
    stack: list[object] = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if any("\ud800" <= character <= "\udfff" for character in node):
                raise MalformedError("a string holds a lone surrogate", reason="not_unicode")
        elif type(node) in walk:
            stack.extend(walk[type(node)](node))
