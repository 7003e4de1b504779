"""Sealed packages: changed anywhere, with a manifest signed anew, or read without a key; and the models in them.

No byte of a package is without meaning, so that a changed one is never opened. A manifest that its sealer signed anew
may be taken for one, if it is strictly written, and then none of the files opens: their keys depend on it.
"""

import json
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from random import Random
from typing import Final, cast

from conformance.malformed import edits, structured

from aigovtool.codec import encode
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.sign import Envelope, Signature, SigningKey, payload_type, pre_authentication_encoding
from aigovtool.errors import PackageError, SignatureInvalidError
from aigovtool.ids import ModelId
from aigovtool.package.format import MAGIC, read_unverified
from aigovtool.package.manifest import KIND, Description, Manifest, MetadataEntry
from aigovtool.package.sealing import PackageReader, seal
from aigovtool.package.source import SourceFile
from assurance.parsers import documents, onnx_models
from assurance.parsers.parser import Kind, Parser, Parts
from assurance.parsers.reading import by_hand, unwrapped

_KEY: Final = bytes(range(32))
_SALT: Final = bytes(range(32, 64))
_SEALER: Final = SigningKey.from_secret(Secret(b"a sealer, for tests and no more!"))
_OTHER: Final = SigningKey.from_secret(Secret(b"another one, for tests, no more!"))
_TYPE: Final = payload_type(KIND)
_SEGMENT: Final = 1 << 20
_PREFIX: Final = 16
_REFUSALS: Final = (PackageError, SignatureInvalidError)


@cache
def _sealed(weights: int = 0, model: str = "doubler") -> bytes:
    """Return a package of a model with so many bytes of weights beside it, none if zero."""
    graph = onnx_models.genuine()[2 if weights else 0][0]
    sources = [SourceFile("model.onnx", BytesIO(graph))]
    if weights:
        sources += [SourceFile("w/v.data", BytesIO(bytes(weights))), SourceFile("e", BytesIO(b""))]
    out = BytesIO()
    entry = MetadataEntry(key="kind", value="für Menschen")
    seal(
        sources,
        out,
        model=ModelId(model),
        model_key=ModelKey(Secret(_KEY)),
        salt=_SALT,
        sealer=_SEALER,
        now_ms=1_700_000_000_000,
        description=Description(labels=("one", "two"), metadata=(entry,)) if weights else None,
    )
    return out.getvalue()


def _small() -> tuple[Parts, ...]:
    return ((_sealed(),), (_sealed(100),), (_sealed(0, "another"),))


def _large() -> tuple[Parts, ...]:
    return ((_sealed(_SEGMENT + 100),), (_sealed(_SEGMENT),))


# --- Edits ---------------------------------------------------------------------------------------


def _split(package: bytes) -> tuple[bytes, bytes]:
    size = _PREFIX + int.from_bytes(package[12:16], "big")
    return package[_PREFIX:size], package[size:]


def _framed(header: bytes, rest: bytes) -> bytes:
    return MAGIC + (1).to_bytes(4, "big") + len(header).to_bytes(4, "big") + header + rest


def _edit(parts: Parts, chance: Random) -> Parts:
    (package,) = parts
    header, rest = _split(package)
    match chance.randrange(6):
        case 0:
            return (edits.edit(package[:_PREFIX], chance) + package[_PREFIX:],)
        case 1 | 2:
            return (_framed(structured.edit(header, chance), rest),)
        case 3:
            return (_framed(header, _of_segments(rest, chance)),)
        case 4:
            other, _ = _split(_sealed(0 if len(package) > 1400 else 100))
            return (_framed(other, rest),)
        case _:
            return (edits.edit(package, chance),)


def _of_segments(rest: bytes, chance: Random) -> bytes:
    """Change ciphertext: bytes of it, or whole segments and their tags, swapped or those of another package."""
    other = _split(_sealed(100 if len(rest) < 1000 else _SEGMENT))[1]
    match chance.randrange(5):
        case 0:
            return rest[16:] + rest[:16]
        case 1:
            size = min(len(rest), len(other), chance.choice((16, 100, _SEGMENT + 16)))
            return other[:size] + rest[size:]
        case 2:
            return rest[_SEGMENT + 16 :] + rest[: _SEGMENT + 16]
        case 3:
            return rest[:-16] + bytes(16)
        case _:
            return edits.edit(rest, chance)


def _edit_signed(parts: Parts, chance: Random) -> Parts:
    """Change the manifest, or what it is signed as and by whom, and sign that; the length is made right mostly."""
    header, rest = _split(parts[0])
    payload = unwrapped(by_hand(header)["payload"]) or b""
    for _ in range(chance.choice((1, 1, 2))):
        payload = _of_manifest(payload, chance) if chance.random() < 0.5 else structured.edit(payload, chance)
    return (_framed(_signed(payload, chance), _fitted(rest, payload, chance)),)


def _of_manifest(payload: bytes, chance: Random) -> bytes:
    """Change a manifest so that it may be one: with other values, in its only spelling."""
    try:
        manifest = json.loads(payload)
        match chance.randrange(5):
            case 0:
                manifest["files"][0]["size_bytes"] += chance.choice((0, 1, -1, 2**20, 2**38, 2**53))
            case 1:
                manifest["files"][-1]["name"] = chance.choice(
                    ("model.onnx", "MODEL.onnx", "../x", "/x", "a//b", "a/.b", "n")
                )
            case 2:
                manifest["sealed_at_ms"] = chance.choice((0, 1, -1, 2**53 - 1, 2**53, 1.5, "1"))
            case 3:
                manifest["model"] = chance.choice(("another", "A", "", "x" * 64, "a\n"))
            case _:
                manifest["inputs"], manifest["outputs"] = manifest["outputs"], manifest["inputs"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return edits.edit(payload, chance)
    return json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _signed(payload: bytes, chance: Random) -> bytes:
    kind = _TYPE if chance.random() < 0.95 else chance.choice((_TYPE[:-1], "", payload_type("command.v1")))
    key = _SEALER if chance.random() < 0.95 else _OTHER
    signature = Signature(keyid=_SEALER.public.key_id, sig=key.sign(pre_authentication_encoding(kind, payload)))
    return encode(Envelope(payload=payload, payloadType=kind, signatures=[signature]))


def _fitted(rest: bytes, payload: bytes, chance: Random) -> bytes:
    """Return ciphertext of the length that a manifest says, where it says any that is not too long."""
    try:
        sizes = [int(file["size_bytes"]) for file in json.loads(payload)["files"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return rest
    size = sum(one + 16 * max(1, -(-one // _SEGMENT)) for one in sizes if 0 <= one < 2**22)
    return rest if chance.random() < 0.2 or size > 2**21 else rest[:size].ljust(size, b"\0")


# --- The product, and the oracle -----------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """What was read of a package: its manifest, as it was signed, and its files, if they opened."""

    manifest: Manifest
    files: tuple[bytes, ...] | None


def _open(parts: Parts) -> _Opened:
    reader = PackageReader(BytesIO(parts[0]), _SEALER.public)
    found = []
    for file in reader.open_files(ModelKey(Secret(_KEY))):
        target = bytearray(file.size_bytes)
        file.decrypt_into(memoryview(target))
        found.append(bytes(target))
    return _Opened(reader.manifest, tuple(found))


def _open_manifest(parts: Parts) -> _Opened:
    """Read the manifest, and go on to the files only then."""
    manifest = PackageReader(BytesIO(parts[0]), _SEALER.public).manifest
    try:
        return _open(parts)
    except PackageError:
        return _Opened(manifest, None)


def _wrong(parts: Parts, value: object) -> str | None:
    """Compare an opened package with the genuine ones, byte by byte."""
    if any(parts == genuine for genuine in (*_small(), *_large())):
        files = cast("_Opened", value).files or ()
        return None if files[0] in {one for (one,) in onnx_models.genuine()} else "a genuine package opened as another"
    return "a changed package was opened"


def _wrong_manifest(parts: Parts, value: object) -> str | None:
    opened = cast("_Opened", value)
    if opened.files is not None:
        return _wrong(parts, value)
    return _wrong_unverified(parts, opened.manifest)


def _wrong_unverified(parts: Parts, value: object) -> str | None:
    """Read framing, header and manifest by hand."""
    (package,) = parts
    header, rest = _split(package)
    if package[:12] != MAGIC + b"\0\0\0\1" or len(header) != int.from_bytes(package[12:16], "big"):
        return "accepted in another frame"
    if (what := documents.misspelled(header, Envelope)) is not None:
        return what
    payload = unwrapped(by_hand(header)["payload"]) or b""
    manifest = by_hand(payload)
    size = sum(file["size_bytes"] + 16 * max(1, -(-file["size_bytes"] // _SEGMENT)) for file in manifest["files"])
    if size != len(rest):
        return f"accepted with {len(rest)} bytes of ciphertext instead of {size}"
    names = [file["name"].casefold() for file in manifest["files"]]
    folders = {name[:at] for name in names for at, sign in enumerate(name) if sign == "/"}
    if len(set(names)) != len(names) or folders & set(names) or any(".." in name.split("/") for name in names):
        return "accepted with names that meet on disk"
    return documents.disagreement(payload, Manifest, value) or documents.misspelled(payload, Manifest)


def _make() -> tuple[Kind, ...]:
    return (
        Kind(name="packages", genuine=_small(), edit=_edit, read=_open, wrong=_wrong, refusals=_REFUSALS, weight=8),
        Kind(name="large-packages", genuine=_large(), edit=_edit, read=_open, wrong=_wrong, refusals=_REFUSALS),
        Kind(
            name="signed-anew",
            genuine=_small(),
            edit=_edit_signed,
            read=_open_manifest,
            wrong=_wrong_manifest,
            refusals=_REFUSALS,
            weight=8,
        ),
        Kind(
            name="unverified",
            genuine=_small(),
            edit=lambda parts, chance: chance.choice((_edit, _edit_signed))(parts, chance),
            read=lambda parts: read_unverified(BytesIO(parts[0])),
            wrong=_wrong_unverified,
            refusals=_REFUSALS,
            weight=4,
        ),
        onnx_models.kind(weight=9),
    )


PARSER: Final = Parser(
    name="packages",
    claim="No changed package is opened, and no model is described otherwise than it is.",
    counts="sealed packages changed in prefix, header, manifest, segments and tags, or put together of two; packages "
    "whose manifest was changed and signed anew by its sealer; and ONNX models with fields dropped, repeated, moved, "
    "nested, renumbered, of other wire types, with lengths that lie and numbers that are too long. A changed package "
    "is never opened. A manifest signed anew is strictly written, fits its file, and opens none of its files. What a "
    "model is said to take, give, import and contain is what the library onnx finds in it.",
    shows_not="what ONNX Runtime makes of a model that protobuf does not read: it loads none (`loadcheck`). A model of "
    "gigabytes, and one with as many fields as its bound allows, takes longer.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/crypto/aead.py",
        "src/aigovtool/crypto/locked.py",
        "src/aigovtool/crypto/secret.py",
        "src/aigovtool/crypto/sign.py",
        "src/aigovtool/package",
        "assurance/parsers/onnx_models.py",
        "assurance/parsers/packages.py",
        "assurance/parsers/protobuf.py",
    ),
    make=_make,
)
