"""Kinds of inputs that are documents: JSON of one message, changed as JSON and as bytes.

What is accepted must be strict JSON when it is read by hand, keep the message's schema, and say what the value says:
written again it has the same members, or leaves out those with their default. What is refused as malformed must be
so. Of what was signed there is one spelling: no white space, no escape that is not needed, base64 with its padding.
"""

from base64 import b64encode
from collections.abc import Mapping
from random import Random
from typing import Any, Final, TypeVar

from aigovtool.codec import decode, encode
from aigovtool.errors import InputError, MalformedError
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from assurance.parsers.parser import Kind, edit_one
from assurance.parsers.reading import Json, NotJsonError, Real, by_hand, schema_of, unlike, unwrapped
from assurance.parsers.values import value_of

T = TypeVar("T")

#: What every parser with documents is made of, beside its own files.
COVERS: Final = (
    "src/aigovtool/codec.py",
    "src/aigovtool/errors.py",
    "src/aigovtool/ids.py",
    "assurance/parsers/documents.py",
    "assurance/parsers/reading.py",
    "assurance/parsers/term_drawing.py",
    "assurance/parsers/term_rules.py",
    "assurance/parsers/values.py",
)
_ABSENT: Final = object()
#: JSON escapes two characters and those below a space; five of these have short forms.
_ESCAPED: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_TYPES: Final = {"object": dict, "array": list, "string": str, "null": type(None), "boolean": bool, "integer": int}


def document(
    name: str,
    kind: Any,  # noqa: ANN401 - a message, or a union of some
    genuine: tuple[object, ...],
    *,
    max_bytes: int = MAX_CONTROL_BODY_BYTES,
    weight: int = 1,
) -> Kind:
    """Return the kind of inputs that `codec.decode` reads as a message, and that nobody has signed."""
    return Kind(
        name=name,
        genuine=tuple((encode(value),) for value in genuine),
        edit=edit_one,
        read=lambda parts: decode(parts[0], kind, max_bytes=max_bytes),
        wrong=lambda parts, value: disagreement(parts[0], kind, value, max_bytes),
        refusals=(InputError,),
        refused_wrongly=lambda parts, error: refused_as_malformed(parts[0], error),
        weight=weight,
    )


def drawn(kind: type[T], number: int) -> tuple[T, ...]:
    """Return so many values of a message, the same in every process."""
    chance = Random(kind.__name__)
    return tuple(value_of(kind, chance) for _ in range(number))


def disagreement(
    data: bytes,
    kind: Any,  # noqa: ANN401 - a message, or a union of some
    value: object,
    max_bytes: int = MAX_CONTROL_BODY_BYTES,
) -> str | None:
    """Return what is wrong with reading `data` as `value`, which is a `kind`."""
    if len(data) > max_bytes:
        return f"accepted {len(data)} bytes"
    try:
        read = by_hand(data)
    except NotJsonError as error:
        return f"accepted what is no strict JSON: {error}"
    if (where := unlike(read, kind)) is not None:
        return f"accepted against its schema: {where}"
    again = encode(value)
    if decode(again, kind, max_bytes=2 * max_bytes) != value:
        return "written and read again it is another value"
    schema = schema_of(kind)
    where = _differs(read, by_hand(again), schema, schema.get("$defs", {}))
    return None if where is None else f"read as something else: {where}"


def refused_as_malformed(data: bytes, error: Exception) -> str | None:
    """Return what is wrong with calling `data` malformed, if it was."""
    if not isinstance(error, MalformedError) or error.reason == "not_canonical":
        return None
    try:
        by_hand(data)
    except NotJsonError:
        return None
    return f"refused strict JSON as {error.reason}"


def misspelled(data: bytes, kind: Any) -> str | None:  # noqa: ANN401 - a message, or a union of some
    """Return what is not in its only spelling in a document that was signed, and keeps its schema."""
    read = by_hand(data)
    if any(isinstance(number, Real) for number in _leaves(read)):
        return None  # of numbers with a fraction there are many spellings, and no message has any
    if spelled(read).encode() != data:
        return "signed JSON is accepted in a second spelling"
    schema = schema_of(kind)
    where = _unordered(read, schema, schema.get("$defs", {}))
    return None if where is None else f"signed JSON is accepted with {where}"


def spelled(value: Json) -> str:
    """Return the only spelling of a value that was read by hand, with the members in the order in which they came."""
    match value:
        case dict():
            return "{" + ",".join(f"{_quoted(name)}:{spelled(member)}" for name, member in value.items()) + "}"
        case list():
            return "[" + ",".join(map(spelled, value)) + "]"
        case str():
            return _quoted(value)
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case _:
            return str(value)


def _leaves(value: Json) -> list[object]:
    waiting, found = [value], []
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        else:
            found.append(one)
    return found


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPED.get(sign) or (sign if sign >= " " else f"\\u{ord(sign):04x}") for sign in text) + '"'


def _plain(schema: Mapping[str, Any], value: Json, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema without references, and of alternatives the one that `value` is."""
    while "$ref" in schema or "anyOf" in schema:
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
        else:
            schema = next((one for one in schema["anyOf"] if _fits(one, value, definitions)), {})
    return schema


def _fits(schema: Mapping[str, Any], value: Json, definitions: Mapping[str, Any]) -> bool:
    plain = _plain(schema, value, definitions)
    if "enum" in plain:
        return value in plain["enum"]
    if plain.get("type") != "object" or not isinstance(value, dict):
        return type(value) is _TYPES.get(plain.get("type", ""), Real)
    tags = {name: one["enum"] for name, one in plain.get("properties", {}).items() if len(one.get("enum", ())) == 1}
    named = all(name in value for name in plain.get("required", ()))
    return named and all(value.get(name, tag[0]) in tag for name, tag in tags.items())


def _differs(read: Json, again: Json, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str | None:
    """Return where a document differs from what was written of its value."""
    plain = _plain(schema, read, definitions)
    if isinstance(read, dict) and isinstance(again, dict):
        properties = plain.get("properties", {})
        for name in [*read, *(name for name in again if name not in read)]:
            rule = properties.get(name, {})
            default = rule.get("default", _ABSENT)
            where = _differs(read.get(name, default), again.get(name, default), rule, definitions)
            if where is not None:
                return f"{name}.{where}"
        return None
    if isinstance(read, list) and isinstance(again, list):
        rule = plain.get("items", {})
        found = [_differs(one, other, rule, definitions) for one, other in zip(read, again, strict=False)]
        return "length" if len(read) != len(again) else next((f"[].{where}" for where in found if where), None)
    if plain.get("contentEncoding") == "base64" and isinstance(read, str) and isinstance(again, str):
        return None if unwrapped(read) == unwrapped(again) else "bytes"
    return None if read == again else "value"


def _unordered(read: Json, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str | None:
    """Return what of a document is not in the order of its message, or is not in the padding of base64."""
    plain = _plain(schema, read, definitions)
    if isinstance(read, dict):
        properties = plain.get("properties")
        order = sorted(read) if properties is None else [name for name in properties if name in read]
        if list(read) != order:
            return "members in another order"
        rules = properties or {}
        return next((w for name in read if (w := _unordered(read[name], rules.get(name, {}), definitions))), None)
    if isinstance(read, list):
        rule = plain.get("items", {})
        return next((where for one in read if (where := _unordered(one, rule, definitions))), None)
    if plain.get("contentEncoding") == "base64" and b64encode(unwrapped(read) or b"").decode() != read:
        return "base64 in a second spelling"
    return None
