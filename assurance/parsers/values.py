"""Plausible values of any message, drawn by chance: genuine inputs for readers of structured documents.

What a type says decides what is drawn: each member, each alternative of a union, texts of each pattern. Rules between
members are found by trying again. A message with rules that chance does not meet is made by hand: `MADE`.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from aigovtool.errors import AIGovToolError
from aigovtool.ledger.answers import AnswerTerms
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from assurance.parsers.term_drawing import answers
from assurance.parsers.term_rules import MOST_MS

T = TypeVar("T")

_TRIES: Final = 300
_WORDS: Final = ("ward-7", "radiology", "st-mary", "alice", "doubler", "m.1", "a_b", "zz9")


def _hex(size: int) -> Callable[[Random], str]:
    return lambda chance: chance.randbytes(size).hex()


#: What is drawn for a pattern, by a part of it that no other one has.
_TEXTS: Final[tuple[tuple[str, Callable[[Random], str]], ...]] = (
    ("^sha256:", lambda chance: f"sha256:{chance.randbytes(32).hex()}"),
    ("^([0-9a-f]{64})?$", lambda chance: chance.choice(("", chance.randbytes(32).hex()))),
    ("{96}", lambda chance: chance.randbytes(chance.choice((32, 48, 64))).hex()),
    ("[0-9a-f]{128}", _hex(64)),
    ("[0-9a-f]{64}", _hex(32)),
    ("[0-9a-f]{32}", _hex(16)),
    ("([0-9a-f]{2})", lambda chance: chance.randbytes(chance.choice((1, 8, 64))).hex()),
    ("[a-z0-9._-]", lambda chance: chance.choice(_WORDS)),
    ("[A-Za-z0-9._:-]{1,64}", lambda chance: f"request:{chance.randrange(10**6)}"),
    ("https://", lambda chance: f"https://host-{chance.randrange(99)}.example:8443"),
    ("[a-z][a-z0-9_]", lambda chance: chance.choice(("launch", "rtmr0", "pcr4", "host_data"))),
    ("[A-Za-z0-9][A-Za-z0-9.-]", lambda chance: f"INTEL-SA-{chance.randrange(10**5):05}"),
    ("^[ -~]", lambda chance: chance.choice(("on purpose", "build 7", "#1 (a test)"))),
    ("^[!-~]", lambda chance: chance.choice(("custodian:0a", "consumer:ward-7"))),
    ("open|approved", lambda chance: chance.choice(("open", "approved", "denied"))),
    ("^1$", lambda _chance: "1"),
    ("^[a-z_]{1,64}$", lambda chance: chance.choice(("stopped", "engine_failed"))),
    ("^[a-z0-9_]{0,80}$", lambda chance: chance.choice(("", "engine_died", "download_digest"))),
    ("A-Za-z0-9._+=@-", lambda chance: chance.choice(("model.onnx", "w/weights.bin", "a.b"))),
)
_PLAIN: Final = ("", "so it is", 'Ü\n\t"\\/\u2028 \U0001f512', "x" * 200)


def _policy(chance: Random) -> ServingPolicy:
    dial = chance.choice(list(Dial))
    policy = default_policy(dial, version=chance.randrange(1, 9), compute_ms=chance.choice((None, 500)))
    return msgspec.structs.replace(
        policy,
        answers=chance.choice((None, value_of(AnswerTerms, chance))),
        max_run_ms=chance.choice((None, 1, MOST_MS)),
        inputs=chance.choice((None, InputTerms(finite=True))),
    )


#: What makes the values of types with rules that chance does not meet.
MADE: Final[Mapping[type, Callable[[Random], object]]] = {
    AnswerTerms: answers,
    InputTerms: lambda _chance: InputTerms(finite=True),
    ServingPolicy: _policy,
}


def value_of(kind: type[T], chance: Random) -> T:
    """Return a value of a message type.

    Raises:
        ValueError: no value was found that keeps all rules.
    """
    draw = _Draw(chance)
    for _ in range(_TRIES):
        try:
            return msgspec.convert(draw.of(inspect.type_info(kind)), kind, strict=True)
        except (msgspec.ValidationError, AIGovToolError):
            continue
    raise ValueError(f"no value of {kind} was found")


class _Draw:
    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def of(self, node: inspect.Type) -> Any:  # noqa: ANN401, PLR0911 - of any type, one by one
        match node:
            case inspect.Metadata(type=inner):
                return self.of(inner)
            case inspect.StructType():
                return self._struct(node)
            case inspect.UnionType(types=types):
                return self.of(self._chance.choice(types))
            case inspect.EnumType(cls=cls):
                return self._chance.choice([member.value for member in cls])
            case inspect.LiteralType(values=values):
                return self._chance.choice(values)
            case inspect.TupleType(item_types=items):
                return [self.of(item) for item in items]
            case inspect.CollectionType():
                return self._items(node)
            case inspect.DictType(key_type=key, value_type=value):
                return {self.of(key): self.of(value) for _ in range(self._chance.randrange(3))}
            case _:
                return self._scalar(node)

    def _struct(self, node: inspect.StructType) -> object:
        if node.cls in MADE:
            return msgspec.to_builtins(MADE[node.cls](self._chance))
        drawn: dict[str, object] = {} if node.tag_field is None else {node.tag_field: node.tag}
        for field in node.fields:
            if field.required or self._chance.random() < 0.7:
                drawn[field.encode_name] = self.of(field.type)
        return list(drawn.values()) if node.array_like else drawn

    def _items(self, node: inspect.CollectionType) -> list[object]:
        least, most = node.min_length or 0, 4 if node.max_length is None else node.max_length
        return [self.of(node.item_type) for _ in range(self._chance.randint(least, max(least, min(most, least + 2))))]

    def _scalar(self, node: inspect.Type) -> object:  # noqa: PLR0911
        chance = self._chance
        match node:
            case inspect.IntType(ge=least, le=most):
                low, high = 0 if least is None else int(least), 2**53 - 1 if most is None else int(most)
                usual = (low, min(high, low + 1), min(high, low + 1000), high, chance.randint(low, high))
                return chance.choice(usual)
            case inspect.FloatType():
                return chance.choice((0.0, 0.5, -1.25))
            case inspect.BoolType():
                return chance.random() < 0.5
            case inspect.BytesType(min_length=shortest, max_length=longest):
                low = shortest or 0
                return chance.randbytes(low if longest is not None and longest <= low else max(low, 1) + 8)
            case inspect.StrType():
                return self._text(node)
            case inspect.NoneType():
                return None
            case _:
                return {"any": [1, "x"]}

    def _text(self, node: inspect.StrType) -> str:
        if node.pattern is not None:
            for part, text in _TEXTS:
                if part in node.pattern:
                    return text(self._chance)
            raise ValueError(f"nothing is drawn for {node.pattern}")
        text_of = self._chance.choice(_PLAIN)
        longest = len(text_of) if node.max_length is None else node.max_length
        return text_of[:longest].ljust(node.min_length or 0, "x")
