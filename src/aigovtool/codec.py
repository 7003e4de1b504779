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
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar, dataclass_transform

import msgspec

from aigovtool.errors import InvalidValueError, MalformedError, TooLargeError
from aigovtool.limits import MAX_CONTROL_BODY_BYTES, MAX_INTEGER, MAX_JSON_DEPTH

T = TypeVar("T")

# A string literal is skipped as a whole, so that brackets inside it do not count as nesting. The closing
# quote is optional and the repetition possessive: an unclosed string is one match, not n attempts of O(n).
_STRUCTURE_RE: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)

# msgspec quotes a wrong enum value or tag, as repr() does; greedy, because the value may hold quotes and
# " - at `$" itself, while the path of field names that follows is ours.
_QUOTED_VALUE_RE: Final = re.compile(r"""value ['"].*['"]""", re.DOTALL)
_MAX_MESSAGE_CHARS: Final = 200


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
    """
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
        raise InvalidValueError(_without_values(str(error)), reason="schema") from None


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
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except json.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error.msg} at character {error.pos}", reason="not_json") from None
    if r"\u" in text:
        _refuse_surrogates(value)
    return value


def _check_depth(data: bytes) -> None:
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
