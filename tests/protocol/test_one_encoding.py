"""Of each value of a message there is one encoding: members at their defaults are left out, or written, always."""

import importlib
import pkgutil
from collections.abc import Iterator

import msgspec
import pytest

import aigovtool
from aigovtool.codec import Message, decode_signed, encode
from aigovtool.errors import MalformedError
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension, of
from aigovtool.protocol.messages import Deny, DenyCode, ModelTerms


def messages(above: type[Message] = Message) -> Iterator[type[Message]]:
    """Yield all messages of the product, which are known once their modules were imported."""
    for kind in above.__subclasses__():
        if kind.__module__.startswith("aigovtool."):
            yield kind
        yield from messages(kind)


def left_out() -> Iterator[tuple[type[Message], str, object, object]]:
    """Yield each member that is left out at its default: its message, name and type, and that default."""
    for module in pkgutil.walk_packages(aigovtool.__path__, "aigovtool."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for kind in sorted(set(messages()), key=lambda one: (one.__module__, one.__qualname__)):
        if kind.__struct_config__.omit_defaults:
            for field in msgspec.structs.fields(kind):
                if field.default is not msgspec.NODEFAULT:
                    yield kind, field.name, field.type, field.default


def test_a_default_that_was_read_is_left_out_like_one_that_was_not() -> None:
    """Msgspec goes by identity: what is read must be the very same object, or its message must see to that."""
    found = list(left_out())
    assert len(found) > 70
    for kind, name, annotated, default in found:
        if default is msgspec.UNSET:
            continue  # it cannot be written
        read = msgspec.convert(msgspec.to_builtins(default), annotated, strict=True)
        assert read == default, (kind, name)
        assert read is default or (kind, name) in SEEN_TO, f"{kind.__name__}.{name} has two encodings"


#: Messages that put the default itself in the place of what equals it.
SEEN_TO = {(ServingPolicy, "request_max"), (ModelTerms, "request_max"), (Deny, "available")}

POLICY = default_policy(Dial.STRICT)
TERMS = ModelTerms(model=ModelId("digits"), ttl_ms=30_000, wipe_after_ms=600_000)
DENY = Deny(model=ModelId("digits"), consumer=ConsumerId("ward"), code=DenyCode.EXHAUSTED)
NOTHING = of(Dimension.INFERENCES, 0)


@pytest.mark.parametrize(
    ("value", "member"),
    [(POLICY, "request_max"), (TERMS, "request_max"), (DENY, "available")],
    ids=lambda one: str(one)[:8],
)
def test_no_units_are_left_out_whoever_counted_them(value: Message, member: str) -> None:
    """A policy's digest names it, so that a second encoding were a second policy."""
    assert member not in encode(value).decode()
    assert encode(msgspec.structs.replace(value, **{member: NOTHING})) == encode(value)
    for nothing in (b"{}", b'{"inferences":0}'):
        written = encode(value).replace(b"}", b',"' + member.encode() + b'":' + nothing + b"}")
        assert msgspec.json.decode(written, type=type(value), strict=True) == value
        with pytest.raises(MalformedError) as caught:
            decode_signed(written, type(value))
        assert caught.value.reason == "not_canonical"
