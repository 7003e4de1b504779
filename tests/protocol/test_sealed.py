"""Sealed requests: the vectors of the specification, and what an instance must have said of itself."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import UNSET

from aigovtool.codec import encode
from aigovtool.crypto.frames import FrameOpener, FrameSealer
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.errors import EvidenceError
from aigovtool.ids import InstanceId, ModelId, Nonce, digest_of
from aigovtool.protocol import sealed
from aigovtool.protocol.sealed import Field, SealedStatus, Statement, require_stated, status_prefix
from aigovtool.protocol.session import ServedModel, SessionEvidence

SPECIFICATION = (Path(__file__).parents[2] / "docs" / "spec" / "sealed.md").read_text(encoding="utf-8")
SECRET, SALT, HEAD = bytes(range(32)), bytes(range(32, 64)), b"\xaa" * 32
IDENTITY = SigningKey.generate()
HERE, NONCE = InstanceId("11" * 32), Nonce("22" * 32)
KEY_SET = seal("key-set.v1", Field(name="a", value="b"), IDENTITY)
MODELS = [ServedModel(model=ModelId("digits"), manifest=digest_of(b"manifest"))]


def test_the_vector_of_a_body_is_what_is_sealed() -> None:
    """One frame."""
    made = b"".join(FrameSealer(SECRET, b"", sealed.body_info(HEAD)).seal_all(b"scan"))
    assert f"\n{made.hex()}\n" in SPECIFICATION
    assert list(FrameOpener(SECRET, b"", sealed.body_info(HEAD)).feed(made)) == [b"scan"]


def test_the_vector_of_an_answer_is_what_is_sealed() -> None:
    """Two frames under a salt."""
    sealer = FrameSealer(SECRET, SALT, sealed.answer_info(HEAD))
    made = sealer.seal(b"one", last=False) + sealer.seal(b"two", last=True)
    assert f"\n{made.hex()}\n" in SPECIFICATION


def test_no_two_contexts_are_alike() -> None:
    """Requests, bodies and answers; other instances, keys and heads."""
    contexts = [
        sealed.request_info(HERE, HEAD),
        sealed.request_info(HERE, SALT),
        sealed.request_info(InstanceId("33" * 32), HEAD),
        sealed.body_info(HEAD),
        sealed.body_info(SALT),
        sealed.answer_info(HEAD),
    ]
    assert len(set(contexts)) == len(contexts)


def test_an_answer_begins_with_its_status_and_its_length() -> None:
    """In the only encoding."""
    prefix = status_prefix(SealedStatus(status=200, headers=[]))
    assert int.from_bytes(prefix[:4], "big") == len(prefix) - 4
    assert json.loads(prefix[4:]) == {"status": 200, "headers": []}


def session(**changes: Any) -> SessionEvidence:
    """Return what an instance answers, with a statement of which something is changed."""
    key, kind, stated = changes.pop("key", IDENTITY), changes.pop("kind", sealed.STATEMENT), changes.pop("stated", True)
    said = {"instance": HERE, "nonce": NONCE, "body_key": bytes(range(32)), "models": MODELS, "warning": "careful"}
    said["key_set"] = digest_of(encode(KEY_SET))
    statement = seal(kind, Statement(**(said | changes)), key)
    return SessionEvidence(
        evidence=cast("Any", None),
        claims=cast("Any", Claims()),
        key_set=KEY_SET,
        models=MODELS,
        warning="careful",
        statement=statement if stated else UNSET,
    )


class Claims:
    """What is attested."""

    instance = HERE


def test_what_an_instance_has_said_is_believed() -> None:
    """Its key for requests comes of it."""
    assert require_stated(session(), IDENTITY.public, NONCE) == bytes(range(32))


@pytest.mark.parametrize(
    "changes",
    [
        {"stated": False},
        {"kind": sealed.REQUEST},
        {"key": SigningKey.generate()},
        {"instance": InstanceId("33" * 32)},
        {"nonce": Nonce("44" * 32)},
        {"key_set": digest_of(b"another")},
        {"models": []},
        {"models": [*MODELS, *MODELS]},
        {"warning": None},
        {"warning": "all is well"},
    ],
    ids=["none", "kind", "signer", "instance", "nonce", "key set", "no models", "models", "no warning", "warning"],
)
def test_anything_else_is_not(changes: dict[str, Any]) -> None:
    """By somebody else, of another boot, for another challenge, or not what came beside it."""
    with pytest.raises(EvidenceError) as caught:
        require_stated(session(**changes), IDENTITY.public, NONCE)
    assert caught.value.reason == "not_stated"
