"""The test vector of docs/spec/package.md, opened by its formulae alone and made again by our code."""

import base64
import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.ids import ModelId
from aigovtool.package.sealing import PackageReader, seal
from aigovtool.package.source import SourceFile

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "package.md"


@pytest.fixture(scope="module")
def vector() -> dict[str, Any]:
    """The JSON block of section 7."""
    block = SPEC.read_text(encoding="utf-8").split("```json\n")[-1].split("```")[0]
    loaded: dict[str, Any] = json.loads(block)
    return loaded


def hkdf(vector: dict[str, Any], length: int, info: bytes) -> bytes:
    salt, key = bytes.fromhex(vector["salt"]), bytes.fromhex(vector["model_key"])
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(key)


def test_the_vector_opens_by_the_formulae_of_the_specification(vector: dict[str, Any]) -> None:
    """No code of ours: framing, signature, commitment, keys, nonces and digests as written."""
    package = base64.b64decode(vector["package_base64"])
    assert package[:8] == b"\x89AIGOV\r\n"
    assert package[8:12] == b"\x00\x00\x00\x01"
    size = int.from_bytes(package[12:16], "big")
    envelope = json.loads(package[16 : 16 + size])
    payload = base64.b64decode(envelope["payload"])
    manifest = json.loads(payload)
    kind = b"application/vnd.aigovtool.manifest.v1+json"
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    sealer = Ed25519PublicKey.from_public_bytes(base64.b64decode(manifest["sealer"]))
    sealer.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)

    digest = sha256(payload).digest()
    assert f"sha256:{digest.hex()}" == vector["manifest_digest"]
    commitment = hkdf(vector, 32, b"aigovtool package v1 commitment\x00")
    assert commitment.hex() == vector["key_commitment"]
    assert commitment == base64.b64decode(manifest["key_commitment"])
    derived = hkdf(vector, 39, b"aigovtool package v1 file\x00" + digest + bytes(4))
    assert derived[:32].hex() == vector["file_0_key"]
    assert derived[32:].hex() == vector["file_0_prefix"]
    plain = AESGCM(derived[:32]).decrypt(derived[32:] + bytes(4) + b"\x01", package[16 + size :], None)
    assert plain.hex() == vector["model"]
    assert manifest["files"][0]["digest"] == "sha256:" + sha256(plain).hexdigest()


def test_our_code_makes_and_opens_the_vector(vector: dict[str, Any]) -> None:
    """Sealing is a function of its arguments: the same ones give the same bytes."""
    model = bytes.fromhex(vector["model"])
    key = ModelKey(Secret(bytes.fromhex(vector["model_key"])))
    sealer = SigningKey.from_secret(Secret(bytes.fromhex(vector["sealer_seed"])))
    out = io.BytesIO()
    seal(
        [SourceFile("model.onnx", io.BytesIO(model))],
        out,
        model=ModelId("identity"),
        model_key=key,
        salt=bytes.fromhex(vector["salt"]),
        sealer=sealer,
        now_ms=vector["now_ms"],
    )
    assert base64.b64encode(out.getvalue()).decode() == vector["package_base64"]
    (file,) = PackageReader(out, sealer.public).open_files(key)
    target = bytearray(file.size_bytes)
    file.decrypt_into(memoryview(target))
    assert bytes(target) == model
