"""The manifest as a message: what is valid, and that there is one encoding."""

from typing import Any

import msgspec
import pytest

from aigovtool.codec import decode_signed, encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import InvalidValueError
from aigovtool.ids import Digest, ModelId
from aigovtool.limits import MAX_PACKAGE_BYTES
from aigovtool.package.manifest import (
    Datatype,
    Description,
    Manifest,
    MetadataEntry,
    Opset,
    PackageFile,
    TensorSpec,
    manifest_digest,
    sign_manifest,
    verify_manifest,
)

SEALER = SigningKey.generate()
DIGEST = Digest("sha256:" + "0" * 64)
TENSOR = TensorSpec(name="x", datatype=Datatype.FP32, shape=("n", 2, -1))


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "format_version": 1,
        "model": ModelId("demo"),
        "engine": "onnx",
        "sealed_at_ms": 0,
        "sealer": SEALER.public.raw,
        "salt": bytes(32),
        "key_commitment": bytes(32),
        "files": (PackageFile(name="model.onnx", size_bytes=1, digest=DIGEST),),
        "inputs": (TENSOR,),
        "outputs": (TENSOR,),
        "opsets": (Opset(domain="", version=17),),
        "description": Description(),
        **changes,
    }
    return Manifest(**fields)


def file(name: str, size_bytes: int = 1) -> PackageFile:
    return PackageFile(name=name, size_bytes=size_bytes, digest=DIGEST)


def test_a_manifest_comes_back_from_its_only_encoding() -> None:
    """Shapes keep their fixed, symbolic and unknown axes."""
    whole = manifest()
    assert decode_signed(encode(whole), Manifest) == whole
    envelope = sign_manifest(whole, SEALER)
    assert verify_manifest(envelope, SEALER.public) == whole
    assert manifest_digest(envelope).startswith("sha256:")


def test_every_member_changes_the_digest() -> None:
    """Nothing in a manifest can be changed without becoming another model."""
    changes: dict[str, Any] = {
        "model": "other",
        "sealed_at_ms": 1,
        "salt": b"\x01" * 32,
        "key_commitment": b"\x01" * 32,
        "files": (file("other.onnx"),),
        "inputs": (msgspec.structs.replace(TENSOR, shape=("n", 3, -1)),),
        "outputs": (msgspec.structs.replace(TENSOR, datatype=Datatype.FP64),),
        "opsets": (),
        "description": Description(labels=("a",)),
    }
    digests = {manifest_digest(sign_manifest(manifest(**{k: v}), SEALER)) for k, v in changes.items()}
    assert len(digests | {manifest_digest(sign_manifest(manifest(), SEALER))}) == len(changes) + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"files": (file("a"), file("A"))},
        {"files": (file("a"), file("a/b"))},
        {"files": (file("a/b"),)},
        {"files": (file("a"), file("b/../c"))},
        {"files": (file("a"), file("/b"))},
        {"files": (file("a", -1),)},
        {"files": (file("a", MAX_PACKAGE_BYTES),)},
        {"files": (file("a", MAX_PACKAGE_BYTES // 2), file("b", MAX_PACKAGE_BYTES // 2))},
        {"inputs": (TENSOR, TENSOR)},
        {"outputs": (TENSOR, TENSOR)},
        {"opsets": (Opset(domain="", version=1), Opset(domain="", version=2))},
        {"inputs": (msgspec.structs.replace(TENSOR, shape=None),)},
        {"inputs": ()},
        {"inputs": (msgspec.structs.replace(TENSOR, shape=(-2,)),)},
        {"inputs": (msgspec.structs.replace(TENSOR, shape=("",)),)},
        {"sealer": bytes(31)},
        {"salt": bytes(33)},
        {"key_commitment": b""},
        {"model": "Demo"},
        {"format_version": 2},
        {"sealed_at_ms": True},
    ],
)
def test_an_invalid_manifest_is_never_signed(changes: dict[str, Any]) -> None:
    """Each rule of the specification, checked when it is made or when it is signed."""
    with pytest.raises(InvalidValueError):
        sign_manifest(manifest(**changes), SEALER)


def test_only_the_named_sealer_signs() -> None:
    """A manifest that names another key would be refused by every reader."""
    with pytest.raises(InvalidValueError) as caught:
        sign_manifest(manifest(), SigningKey.generate())
    assert caught.value.reason == "wrong_sealer"


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "a\u202eb", "a\u200bb", "\x7f"])
def test_text_that_deceives_a_reader_is_refused(text: str) -> None:
    """Line breaks, terminal escapes, direction marks and invisible characters, in every place for text."""
    for make in (
        lambda: TensorSpec(name=text, datatype=Datatype.FP32, shape=()),
        lambda: TensorSpec(name="x", datatype=Datatype.FP32, shape=(text,)),
        lambda: Opset(domain=text, version=1),
        lambda: Description(labels=(text,)),
        lambda: Description(preprocessing=(text,)),
        lambda: MetadataEntry(key=text, value="v"),
        lambda: MetadataEntry(key="k", value=text),
    ):
        with pytest.raises(InvalidValueError):
            make()


def test_a_metadata_key_is_given_once() -> None:
    """Otherwise two readers could show two values."""
    entry = MetadataEntry(key="k", value="v")
    with pytest.raises(InvalidValueError):
        Description(metadata=(entry, entry))
