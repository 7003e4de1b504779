"""The test vector of the receipt specification, checked by the text of the specification and by the product."""

import json
import re
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aigovtool.codec import decode_signed, encode
from aigovtool.crypto.sign import VerifyKey
from aigovtool.ledger.receipt import Receipt, SignedReceipt, chain, salted_digest, verify_receipt

SPEC = Path(__file__).resolve().parents[2] / "docs" / "spec" / "receipt.md"


@pytest.fixture
def vector() -> dict[str, Any]:
    found = re.search(r"<!-- vector: .*? -->\n```json\n(.*?)\n```", SPEC.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_the_vector_follows_from_the_words_of_the_specification(vector: dict[str, Any]) -> None:
    """Sections 2 to 4 with nothing but SHA-256 and Ed25519: whoever implements the text gets these bytes."""
    salt, leaves = bytes.fromhex(vector["salt"]), [bytes.fromhex(leaf) for leaf in vector["leaves"]]
    assert salt == sha256(b"TEST-ONLY receipt salt").digest()
    receipt = json.loads(vector["receipt"])
    for label in ("request", "response"):
        digest = sha256(bytes([len(salt)]) + salt + label.encode() + b"\0" + f"{label} 2".encode()).hexdigest()
        assert receipt[label] == f"sha256:{digest}"
    assert sha256(b"\0" + vector["receipt"].encode()).digest() == leaves[1]
    inner = sha256(b"\1" + leaves[0] + leaves[1]).digest()
    assert sha256(b"\1" + inner + leaves[2]).hexdigest() == vector["root"]
    head = b""
    for leaf, expected in zip(leaves, vector["chain_heads"], strict=True):
        head = sha256(head + leaf).digest()
        assert head.hex() == expected
    signed = json.loads(vector["signed"])
    assert [b64decode(each) for each in signed["path"]] == [leaves[0], leaves[2]]
    batch = signed["batch"]
    kind, payload = "application/vnd.aigovtool.receipt-batch.v1+json", b64decode(batch["payload"])
    assert batch["payloadType"] == kind
    assert b64decode(json.loads(payload)["root"]).hex() == vector["root"]
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(vector["identity_key"]))
    key.verify(b64decode(batch["signatures"][0]["sig"]), encoded)


def test_the_product_agrees_with_the_vector(vector: dict[str, Any]) -> None:
    """The same bytes through the code that consumers run."""
    signed = decode_signed(vector["signed"].encode(), SignedReceipt)
    receipt = verify_receipt(signed, VerifyKey(bytes.fromhex(vector["identity_key"])))
    assert encode(receipt).decode() == vector["receipt"]
    assert chain(vector["chain_heads"][0], receipt) == vector["chain_heads"][1]
    assert receipt.request == salted_digest(bytes.fromhex(vector["salt"]), "request", [b"request ", b"2"])


def test_the_specification_names_every_field() -> None:
    """A field added to receipts must be specified."""
    table = SPEC.read_text(encoding="utf-8").split("## 1. Fields")[1].split("## 2.")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == Receipt.__struct_fields__
