"""Packages as a hostile sealer makes them: authenticated, whole, and with anything at all as their model.

The product's own sealer refuses most of these models before it takes a key. Whoever lends a model need not use it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto

from aigovtool.crypto.aead import TAG_BYTES, FileSealer, key_commitment, new_model_key, new_salt
from aigovtool.crypto.secret import ModelKey
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.wrap import wrap
from aigovtool.enclave.engines.process import LOAD_TIMEOUT_MS, EngineProcess, LoadedModel
from aigovtool.errors import AIGovToolError
from aigovtool.ids import Digest, ModelId, digest_of
from aigovtool.limits import SEGMENT_BYTES
from aigovtool.package.format import encode_header
from aigovtool.package.manifest import (
    Datatype,
    Description,
    Dimension,
    Manifest,
    PackageFile,
    TensorSpec,
    manifest_digest,
    sign_manifest,
)
from assurance.models.own_graphs import OUTSIDE

#: In which a package's key is wrapped.
CONTEXT: Final = b"a package of a test"
_FILE: Final = "model.onnx"
MALFORMED: Final = ModelId("malformed")
_TYPES: Final = {
    TensorProto.FLOAT: Datatype.FP32,
    TensorProto.FLOAT16: Datatype.FP16,
    TensorProto.DOUBLE: Datatype.FP64,
    TensorProto.STRING: Datatype.BYTES,
    **{
        getattr(TensorProto, name): Datatype(name)
        for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
    },
}


@dataclass(frozen=True)
class Sealed:
    """A package in a file, and what opens it."""

    path: Path
    key: ModelKey
    digest: Digest
    sealer: bytes

    async def load(
        self,
        engine: EngineProcess,
        timeout_ms: int = LOAD_TIMEOUT_MS,
        *,
        wrapped_key: bytes | None = None,
        info: bytes = CONTEXT,
        manifest_digest: Digest | None = None,
        sealer: bytes | None = None,
    ) -> LoadedModel:
        """Have a child load it, with what opens it, or with something else in its place.

        Raises:
            AIGovToolError: it was refused.
        """
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return await engine.load(
                descriptor,
                wrapped_key=wrapped_key or wrap(self.key.secret, engine.hpke_public_key, CONTEXT),
                info=info,
                manifest_digest=manifest_digest or self.digest,
                sealer=sealer or self.sealer,
                timeout_ms=timeout_ms,
            )
        finally:
            os.close(descriptor)


def seal_model(
    path: Path,
    data: bytes,
    made_of: ModelProto,
    *,
    sealer: SigningKey | None = None,
    name: ModelId = MALFORMED,
) -> Sealed:
    """Seal a model with the manifest that lets it be loaded, if that can be: what protobuf reads in it.

    Where nothing is read, or what is read fits no manifest, what it was made of is told instead.
    """
    files, key = ((_FILE, data), OUTSIDE), sealer or SigningKey.generate()
    try:
        return seal_files(path, files, *_interface(ModelProto.FromString(data)), sealer=key, name=name)
    except (DecodeError, UnicodeDecodeError, AIGovToolError):
        return seal_files(path, files, *_interface(made_of), sealer=key, name=name)


def _interface(model: ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    initial = {one.name for one in model.graph.initializer}
    inputs = tuple(_spec(one) for one in model.graph.input if one.name not in initial)
    outputs = tuple(_spec(one) for one in model.graph.output)
    placeholder = (TensorSpec(name="none", datatype=Datatype.FP32, shape=()),)
    return inputs or placeholder, outputs or placeholder


def _spec(info: ValueInfoProto) -> TensorSpec:
    tensor = info.type.tensor_type
    axes: list[Dimension] = [
        max(-1, axis.dim_value) if axis.HasField("dim_value") else _text(axis.dim_param) or -1
        for axis in tensor.shape.dim
    ]
    return TensorSpec(name=_text(info.name), datatype=_TYPES.get(tensor.elem_type, Datatype.FP32), shape=tuple(axes))


def _text(value: str | bytes) -> str:
    """Return a text, which is `bytes` where it is none."""
    return value if isinstance(value, str) else value.decode()


def seal_files(
    path: Path,
    files: Sequence[tuple[str, bytes]],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    sealer: SigningKey,
    name: ModelId,
) -> Sealed:
    """Write a package of `files`, the model first, whatever they and what is said of them may be.

    Raises:
        AIGovToolError: such a manifest cannot be.
    """
    key, salt = new_model_key(), new_salt()
    manifest = Manifest(
        format_version=1,
        model=name,
        engine="onnx",
        sealed_at_ms=0,
        sealer=sealer.public.raw,
        salt=salt,
        key_commitment=key_commitment(key, salt),
        files=tuple(PackageFile(name=name, size_bytes=len(data), digest=digest_of(data)) for name, data in files),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        opsets=(),
        description=Description(),
    )
    envelope = sign_manifest(manifest, sealer)
    digest = manifest_digest(envelope)
    with path.open("wb") as out:
        out.write(encode_header(envelope))
        for index, (_, data) in enumerate(files):
            file = FileSealer(key, salt, bytes.fromhex(digest.removeprefix("sha256:")), index)
            for start in range(0, max(1, len(data)), SEGMENT_BYTES):
                part = data[start : start + SEGMENT_BYTES]
                buffer = bytearray(len(part) + TAG_BYTES)
                file.seal_into(part, buffer, last=start + SEGMENT_BYTES >= len(data))
                out.write(buffer)
    return Sealed(path, key, digest, sealer.public.raw)
