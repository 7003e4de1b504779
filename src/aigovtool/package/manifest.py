"""The manifest: what a package holds, as its sealer signs it.

Source: docs/spec/package.md section 2. A `Manifest` that was decoded is valid as a whole: single values are
bounded by their types, rules between values by `__post_init__`. The manifest digest, the SHA-256 of the signed
payload bytes, is what everybody pins as the model's identity.

It does not say that the files are really like this: `sealing` compares sizes and digests.
"""

from enum import StrEnum, unique
from typing import Annotated, Final, Literal

from msgspec import Meta

from aigovtool.codec import Message, decode_signed, encode, text_like
from aigovtool.crypto.aead import sealed_size_bytes
from aigovtool.crypto.sign import Envelope, SigningKey, VerifyKey, open_envelope
from aigovtool.crypto.sign import seal as seal_envelope
from aigovtool.errors import InputError, InvalidValueError, PackageError, SignatureInvalidError
from aigovtool.ids import Digest, Millis, ModelId, digest_of
from aigovtool.limits import (
    MAX_INTEGER,
    MAX_MANIFEST_BYTES,
    MAX_PACKAGE_BYTES,
    MAX_PACKAGE_FILES,
    MAX_TENSOR_ELEMENTS,
    MAX_TENSOR_RANK,
    MAX_TENSORS,
)
from aigovtool.package.picture import Picture

KIND: Final = "manifest.v1"
FORMAT_VERSION: Final = 1

# No level starts with a dot, so "." and ".." cannot be spelt; no backslash, colon or star either.
FILE_NAME_PATTERN: Final = r"^(?:[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}/){0,7}[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}$(?!\n)"
MAX_TEXT_CHARS: Final = 256
MAX_LINE_CHARS: Final = 1024
MAX_LABELS: Final = 10_000
MAX_ENTRIES: Final = 64
MAX_OPSETS: Final = 64

FileName = Annotated[str, text_like(FILE_NAME_PATTERN, "a file name in ASCII, in at most 7 folders")]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]
Line = Annotated[str, Meta(min_length=1, max_length=MAX_LINE_CHARS)]
FileBytes = Annotated[int, Meta(ge=0, le=MAX_PACKAGE_BYTES)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
#: What a pixel's value may become.
_OF_PICTURES: Final = frozenset({"FP16", "FP32", "FP64", "UINT8"})
#: Size of one axis; the name of a symbolic axis; or -1 where the model says nothing.
Dimension = Annotated[int, Meta(ge=-1, le=MAX_TENSOR_ELEMENTS)] | Text


@unique
class Datatype(StrEnum):
    """Element types, by their names in the Open Inference Protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class PackageFile(Message):
    """One file: its relative name, its size and the SHA-256 of its plaintext."""

    name: FileName
    size_bytes: FileBytes
    digest: Digest


class TensorSpec(Message):
    """An input or output. `shape` is None when not even the rank is known (outputs only)."""

    name: Text
    datatype: Datatype
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=MAX_TENSOR_RANK)] | None

    def __post_init__(self) -> None:
        _check_text("a tensor's name", self.name)
        for axis in self.shape or ():
            if isinstance(axis, str):
                _check_text("an axis", axis)


class Opset(Message):
    """An operator set that the model imports; `domain` is empty for ai.onnx."""

    domain: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
    version: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]

    def __post_init__(self) -> None:
        _check_text("an operator domain", self.domain)


class MetadataEntry(Message):
    """One key and its value, for people."""

    key: Text
    value: Line

    def __post_init__(self) -> None:
        _check_text("metadata", self.key)
        _check_text("metadata", self.value)


class Description(Message):
    """What people want to know about the model; nothing acts on it.

    `labels`: names of the classes, in the order of the output. `preprocessing`: steps, one per line.
    """

    labels: Annotated[tuple[Line, ...], Meta(max_length=MAX_LABELS)] = ()
    preprocessing: Annotated[tuple[Line, ...], Meta(max_length=MAX_ENTRIES)] = ()
    metadata: Annotated[tuple[MetadataEntry, ...], Meta(max_length=MAX_ENTRIES)] = ()

    def __post_init__(self) -> None:
        for line in (*self.labels, *self.preprocessing):
            _check_text("a description", line)
        _check_unique("metadata key", [entry.key for entry in self.metadata])


class Manifest(Message, omit_defaults=True):
    """What one package holds. The members and their order are those of the specification."""

    format_version: Literal[1]
    model: ModelId
    engine: Literal["onnx"]
    sealed_at_ms: Millis
    sealer: Bytes32
    salt: Bytes32
    key_commitment: Bytes32
    files: Annotated[tuple[PackageFile, ...], Meta(min_length=1, max_length=MAX_PACKAGE_FILES)]
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=MAX_TENSORS)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=MAX_TENSORS)]
    opsets: Annotated[tuple[Opset, ...], Meta(max_length=MAX_OPSETS)]
    description: Description
    draws_random: bool = False
    pictures: Annotated[tuple[Picture, ...], Meta(max_length=MAX_TENSORS)] = ()

    def __post_init__(self) -> None:
        check_file_names([file.name for file in self.files])
        if "/" in self.files[0].name:
            raise InvalidValueError("the first file, the graph, has no folder", reason="file_name")
        if sum(sealed_size_bytes(file.size_bytes) for file in self.files) > MAX_PACKAGE_BYTES:
            raise InvalidValueError(f"the files are over {MAX_PACKAGE_BYTES} bytes", reason="package_too_large")
        _check_unique("input", [tensor.name for tensor in self.inputs])
        _check_unique("output", [tensor.name for tensor in self.outputs])
        _check_unique("operator domain", [opset.domain for opset in self.opsets])
        if any(tensor.shape is None for tensor in self.inputs):
            raise InvalidValueError("an input has no shape", reason="unknown_rank")
        _check_unique("picture", [picture.input for picture in self.pictures])
        by_name = {tensor.name: tensor for tensor in self.inputs}
        for picture in self.pictures:
            _check_picture(picture, by_name.get(picture.input))


def _check_picture(picture: Picture, tensor: TensorSpec | None) -> None:
    """Refuse what says of an input that it is another than it is."""
    if tensor is None:
        raise InvalidValueError(f"the model has no input {picture.input[:40]!r}", reason="bad_picture")
    if tensor.datatype not in _OF_PICTURES:
        raise InvalidValueError(f"input {tensor.name!r} holds {tensor.datatype}, and no pixels", reason="bad_picture")
    shape = tensor.shape or ()
    fits = len(shape) == len(picture.shape) and all(
        not isinstance(axis, int) or axis in (-1, size) for axis, size in zip(shape, picture.shape, strict=True)
    )
    if not fits:
        raise InvalidValueError(
            f"a picture of shape {list(picture.shape)} does not fit input {tensor.name!r} of shape {list(shape)}",
            reason="bad_picture",
        )


def check_file_names(names: list[str]) -> None:
    """Refuse names that would meet on disk: equal without regard to case, or one the folder of another.

    Raises:
        InvalidValueError: with reason `duplicate` or `file_name`.
    """
    folded = [name.casefold() for name in names]
    _check_unique("file", folded)
    known = set(folded)
    for name in folded:
        parts = name.split("/")
        if any("/".join(parts[:depth]) in known for depth in range(1, len(parts))):
            raise InvalidValueError("a file's name is also a folder", reason="file_name")


def sign_manifest(manifest: Manifest, sealer: SigningKey) -> Envelope:
    """Return the signed manifest, after making sure that every reader will take it.

    Raises:
        InvalidValueError: a value is out of its domain, or `sealer` is not the manifest's.
        TooLargeError: over `limits.MAX_MANIFEST_BYTES`.
    """
    if manifest.sealer != sealer.public.raw:
        raise InvalidValueError("the manifest names another sealer", reason="wrong_sealer")
    decode_signed(encode(manifest), Manifest, max_bytes=MAX_MANIFEST_BYTES)
    return seal_envelope(KIND, manifest, sealer)


def verify_manifest(envelope: Envelope, sealer: VerifyKey) -> Manifest:
    """Return the manifest if exactly `sealer` signed it and it is valid.

    Raises:
        SignatureInvalidError: not signed by `sealer`, or it names another sealer.
        PackageError: signed, but not a valid manifest.
    """
    try:
        manifest = open_envelope(envelope, KIND, Manifest, [sealer], max_bytes=MAX_MANIFEST_BYTES)
    except InputError as error:
        raise PackageError(f"the manifest is not valid: {error.message}", reason=error.reason) from None
    if manifest.sealer != sealer.raw:
        raise SignatureInvalidError("the manifest names another sealer", reason="wrong_key")
    return manifest


def manifest_digest(envelope: Envelope) -> Digest:
    """Return the digest that everybody pins: SHA-256 of the payload bytes."""
    return digest_of(envelope.payload)


def _check_text(what: str, text: str) -> None:
    """Control and format characters (line breaks, terminal escapes, direction marks) would deceive a reader."""
    if not text.isprintable():
        raise InvalidValueError(f"{what} holds a character that cannot be printed", reason="not_printable")


def _check_unique(what: str, values: list[str]) -> None:
    if len(set(values)) != len(values):
        raise InvalidValueError(f"the manifest lists the same {what} twice", reason="duplicate")
