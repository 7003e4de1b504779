"""Every member of a described document, what its schema lets stand there, and what does not belong there."""

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

Path = tuple[str | int, ...]
Schema = dict[str, Any]

#: What may stand where something is expected, by its type in JSON; several of a type that readers differ about.
TOKENS: Final[tuple[tuple[str, str], ...]] = (
    ("null", "null"),
    ("boolean", "true"),
    ("boolean", "false"),
    ("integer", "0"),
    ("integer", "-7"),
    ("number", "1.5"),
    ("string", '""'),
    ("string", '"x"'),
    ("string", '"1"'),
    ("string", '"\\u0000\\u202e"'),
    ("string", json.dumps("x" * 20_000)),
    ("array", "[]"),
    ("array", "[[]]"),
    ("array", "[" * 20 + "]" * 20),
    ("object", "{}"),
    ("object", '{"":0}'),
)
#: What is no JSON, or none that this project reads, wherever it stands.
NEVER: Final = ("NaN", "Infinity", "1e400", '"\\ud800"', "'x'", "undefined", "[" * 100_000, "// x\n1", "01", '"\x01"')


def schema_of(kind: Any) -> tuple[Schema, Schema]:
    """Return the schema of a message, and the schemas that it refers to."""
    (schema,), components = msgspec.json.schema_components([kind], schema_hook=lambda _: {"title": "anything"})
    return schema, dict(components)


def members(document: Any, schema: Schema, components: Schema, at: Path = ()) -> Iterator[tuple[Path, set[str]]]:
    """Yield the place of each member and element of a document, with the types that may stand there."""
    for option in _options(schema, components):
        if not _is_for(option, document, components):
            continue
        if isinstance(document, dict):
            for name, value in document.items():
                inner = option.get("properties", {}).get(name, option.get("additionalProperties"))
                if isinstance(inner, dict):
                    yield (*at, name), _types(inner, components)
                    yield from members(value, inner, components, (*at, name))
        elif isinstance(document, list) and isinstance(option.get("items"), dict):
            for index, value in enumerate(document[:1]):
                yield (*at, index), _types(option["items"], components)
                yield from members(value, option["items"], components, (*at, index))
        return


def names(schema: Schema, components: Schema) -> set[str]:
    """Return the names of all members that a schema allows, at any depth."""
    found: set[str] = set()
    waiting, seen = [schema], set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        for option in _options(part, components):
            found |= option.get("properties", {}).keys()
            inner = [*option.get("properties", {}).values(), option.get("items"), option.get("additionalProperties")]
            waiting += [one for one in inner if isinstance(one, dict)]
    return found


def with_token(document: Any, place: Path, token: str) -> bytes:
    """Return the document with this text at a place."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "@@"
    return json.dumps(copy, ensure_ascii=False, separators=(",", ":")).replace('"@@"', token).encode()


def misplaced(types: set[str]) -> Iterator[str]:
    """Yield what may not stand where these types may."""
    allowed = types | ({"integer"} if "number" in types else set())
    yield from (token for kind, token in TOKENS if kind not in allowed)


def _options(schema: Schema, components: Schema) -> list[Schema]:
    """Return what a schema is one of, without references."""
    while "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    if "anyOf" not in schema:
        return [schema]
    return [one for option in schema["anyOf"] for one in _options(option, components)]


def _types(schema: Schema, components: Schema) -> set[str]:
    found: set[str] = set()
    for option in _options(schema, components):
        if "enum" in option or "const" in option:
            found |= {_type_of(one) for one in option.get("enum", [option.get("const")])}
        else:
            kinds = option.get("type", [kind for kind, _ in TOKENS])
            found |= {kinds} if isinstance(kinds, str) else set(kinds)
    return found


def _type_of(value: Any) -> str:
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _is_for(option: Schema, document: Any, components: Schema) -> bool:
    if _type_of(document) not in _types(option, components):
        return False
    if not isinstance(document, dict):
        return True
    properties = option.get("properties", {})
    fixed = {name: one["enum"] for name, one in properties.items() if "enum" in one and len(one["enum"]) == 1}
    return document.keys() >= set(option.get("required", ())) and all(document.get(n) in v for n, v in fixed.items())
