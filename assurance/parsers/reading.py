"""An independent reading of JSON documents: by hand from RFC 8259, and held to a JSON Schema in plain Python.

Neither `aigovtool.codec` nor `json` nor msgspec's decoder reads them. The schemas are those that msgspec derives from
the messages: the types are the product's, and what holds a value to them is not; nor are the rules of terms, which are
those of `term_rules`. Beside the RFC, as the product promises: UTF-8 without a byte-order mark, no key twice, no
integer beyond 2**53 - 1, nothing infinite, no lone surrogate, and at most 24 levels.
"""

import json
import re
from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from assurance.parsers.term_rules import RULES

_LEVELS: Final = 24
_MOST: Final = 2**53 - 1
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)((?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_HEX: Final = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS: Final[tuple[tuple[str, Any], ...]] = (("true", True), ("false", False), ("null", None))

Json = Any


class NotJsonError(Exception):
    """The bytes are no strict JSON."""


def by_hand(data: bytes) -> Json:
    """Return the value that `data` is the JSON of; `Real` keeps numbers with a fraction or an exponent apart.

    Raises:
        NotJsonError: it is none.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotJsonError("not UTF-8") from None
    reader = _Reader(text)
    value = reader.value(0)
    if reader.at != len(text):
        raise NotJsonError("something follows the value")
    return value


class Real(float):
    """A number that is not written as an integer."""


class _Reader:
    def __init__(self, text: str) -> None:
        self._text: Final = text
        self.at = 0

    def value(self, level: int) -> Json:
        self._space()
        start = self._text[self.at : self.at + 1]
        if start in {"{", "["} and level == _LEVELS:
            raise NotJsonError("too deep")
        if start == "{":
            found: Json = self._object(level + 1)
        elif start == "[":
            found = self._array(level + 1)
        elif start == '"':
            found = self._string()
        else:
            found = self._scalar()
        self._space()
        return found

    def _space(self) -> None:
        self.at = self._matched(_SPACE).end()

    def _matched(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self.at)
        if found is None:
            raise NotJsonError(f"unexpected at {self.at}")
        return found

    def _take(self, sign: str) -> bool:
        taken = self._text.startswith(sign, self.at)
        self.at += len(sign) if taken else 0
        return taken

    def _require(self, sign: str) -> None:
        if not self._take(sign):
            raise NotJsonError(f"no {sign} at {self.at}")

    def _object(self, level: int) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for _ in self._members("{", "}"):
            self._space()
            name = self._string()
            self._space()
            self._require(":")
            if name in found:
                raise NotJsonError("a key twice")
            found[name] = self.value(level)
        return found

    def _array(self, level: int) -> list[Json]:
        return [self.value(level) for _ in self._members("[", "]")]

    def _members(self, begin: str, end: str) -> Iterator[None]:
        self._require(begin)
        self._space()
        if self._take(end):
            return
        yield
        while self._take(","):
            yield
        self._require(end)

    def _string(self) -> str:
        self._require('"')
        parts: list[str] = []
        while True:
            plain = self._matched(_PLAIN)
            parts.append(plain[0])
            self.at = plain.end()
            if self._take('"'):
                break
            self._require("\\")
            parts.append(self._escape())
        # Two escapes that are a pair make one character; a half of one makes none.
        try:
            return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise NotJsonError("a lone surrogate") from None

    def _escape(self) -> str:
        sign = self._text[self.at : self.at + 1]
        self.at += 1
        if sign in _ESCAPES:
            return _ESCAPES[sign]
        if sign != "u":
            raise NotJsonError("an unknown escape")
        digits = self._matched(_HEX)
        self.at = digits.end()
        return chr(int(digits[0], 16))

    def _scalar(self) -> Json:
        for word, value in _WORDS:
            if self._take(word):
                return value
        number = self._matched(_NUMBER)
        self.at = number.end()
        if number[1]:
            real = Real(number[0])
            if real in {float("inf"), float("-inf")}:
                raise NotJsonError("infinite")
            return real
        if len(number[0]) > 17 or abs(int(number[0])) > _MOST:
            raise NotJsonError("an integer that is too large")
        return int(number[0])


@cache
def schema_of(kind: object) -> dict[str, Any]:
    """Return the JSON Schema of a message, as one reads it that knows of no tuples."""
    schema: dict[str, Any] = json.loads(json.dumps(msgspec.json.schema(kind)))
    return schema


def unlike(value: Json, kind: object) -> str | None:
    """Return where a value, read by hand, is not what the schema of `kind` says; None if it is."""
    schema = schema_of(kind)
    return next(_Schema(schema.get("$defs", {})).unlike(value, schema, "$"), None)


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


class _Schema:
    """Yields where a value breaks a schema."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def unlike(self, value: Json, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        schema = _plain(schema, self._definitions)
        if "anyOf" in schema:
            if all(next(self.unlike(value, one, path), None) is not None for one in schema["anyOf"]):
                yield f"{path} is none of the alternatives"
            return
        if "enum" in schema:
            if not any(value == one and type(value) is type(one) for one in schema["enum"]):
                yield f"{path} is not of the enumeration"
            return
        if "const" in schema and value != schema["const"]:
            yield f"{path} is another constant"
        if "type" in schema:
            if not _is(value, schema["type"]):
                yield f"{path} is no {schema['type']}"
                return
            yield from self._by_type.get(schema["type"], _nothing)(self, value, schema, path)

    def _object(self, value: dict[str, Json], schema: Mapping[str, Any], path: str) -> Iterator[str]:
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}.{name} is missing"
        for name, member in value.items():
            if name in properties:
                yield from self.unlike(member, properties[name], f"{path}.{name}")
            elif more is False:
                yield f"{path} has an unknown member"
            elif isinstance(more, dict):
                yield from self.unlike(member, more, f"{path}.{name}")
        # Whoever asks stops at the first answer: here, the members are of the types that the rule reads.
        if (rule := RULES.get(schema.get("title", ""))) is not None and (what := rule(value)) is not None:
            yield f"{path} has {what}"

    def _array(self, value: list[Json], schema: Mapping[str, Any], path: str) -> Iterator[str]:
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path} has {len(value)} items"
        fixed = schema.get("prefixItems", [])
        items = schema.get("items", {})
        for at, item in enumerate(value):
            rule = fixed[at] if at < len(fixed) else items
            if rule is False:
                yield f"{path} has too many items"
            elif rule is not True:
                yield from self.unlike(item, rule, f"{path}[{at}]")

    def _text(self, value: str, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{path} has {len(value)} characters"
        if "pattern" in schema and re.search(schema["pattern"], value) is None:
            yield f"{path} does not match its pattern"
        if schema.get("contentEncoding") == "base64" and unwrapped(value) is None:
            yield f"{path} is no base64"

    def _number(self, value: float, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield f"{path} is out of its bounds"

    _by_type: Final[dict[str, Callable[..., Iterator[str]]]] = {
        "object": _object,
        "array": _array,
        "string": _text,
        "integer": _number,
        "number": _number,
    }


def _nothing(_self: object, _value: object, _schema: object, _path: object) -> Iterator[str]:
    return iter(())


def _is(value: Json, kind: str) -> bool:
    types: dict[str, tuple[type, ...]] = {
        "object": (dict,),
        "array": (list,),
        "string": (str,),
        "integer": (int,),
        "number": (int, Real),
        "boolean": (bool,),
        "null": (type(None),),
    }
    return type(value) in types[kind]


def unwrapped(text: str) -> bytes | None:
    """Return what is in base64; None if it is none."""
    try:
        return b64decode(text.encode("ascii"), validate=True) if len(text) % 4 == 0 else None
    except (Error, UnicodeEncodeError):
        return None
