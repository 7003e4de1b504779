"""Envelopes: how signed statements are changed, signed anew, and verified without the product.

Keys are made of their names: the same in every process. They are TEST-ONLY.
"""

import json
from base64 import b64encode
from collections.abc import Collection, Sequence
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any, Final

from conformance.malformed import edits, structured
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aigovtool.codec import encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, Signature, SigningKey, payload_type, pre_authentication_encoding
from assurance.parsers.reading import Json, by_hand, unwrapped

_PREFIX: Final = "application/vnd.aigovtool."


@cache
def key(name: str) -> SigningKey:
    """Return the key of this name."""
    return SigningKey.from_secret(Secret(sha256(f"TEST-ONLY {name}".encode()).digest()))


def envelope(kind: str, payload: bytes, keys: Sequence[SigningKey]) -> Envelope:
    """Return these very bytes, signed as `kind` with each of the keys."""
    signed = pre_authentication_encoding(payload_type(kind), payload)
    signatures = [Signature(keyid=one.public.key_id, sig=one.sign(signed)) for one in keys]
    return Envelope(payload=payload, payloadType=payload_type(kind), signatures=signatures)


def verified_by_hand(read: Json, kind: str, keys: Collection[bytes]) -> bytes | str:
    """Return the payload of an envelope, read by hand, if each of these raw keys has signed it; else what is wrong.

    DSSE 1.0.2: "DSSEv1", the lengths in decimal, and everything separated by one space.
    """
    payload, name = unwrapped(read["payload"]), read["payloadType"].encode()
    if payload is None or name != f"{_PREFIX}{kind}+json".encode():
        return "accepted as a statement of another kind"
    encoded = b" ".join((b"DSSEv1", str(len(name)).encode(), name, str(len(payload)).encode(), payload))
    wanted = {sha256(raw).hexdigest(): raw for raw in keys}
    if sorted(one["keyid"] for one in read["signatures"]) != sorted(wanted):
        return "accepted with signatures of others than the pinned keys"
    for one in read["signatures"]:
        try:
            Ed25519PublicKey.from_public_bytes(wanted[one["keyid"]]).verify(unwrapped(one["sig"]) or b"", encoded)
        except InvalidSignature:
            return "accepted with a signature that does not verify"
    return payload


def changed(data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
    """Change an envelope, or put it together with another one."""
    try:
        document: dict[str, Any] = json.loads(data)
        other: dict[str, Any] = json.loads(chance.choice(others))
        match chance.randrange(12):
            case 0:
                document["payload"] = other["payload"]
            case 1:
                document["signatures"] = other["signatures"]
            case 2:
                document["signatures"] = document["signatures"] + other["signatures"] * chance.choice((1, 1, 5))
            case 3:
                document["payloadType"] = chance.choice(
                    (other["payloadType"], f"{_PREFIX}x+json", "", "application/json")
                )
            case 4:
                chance.choice(document["signatures"])["keyid"] = other["signatures"][0]["keyid"]
            case 5:
                document["payload"] = _inside(document["payload"], chance)
            case 6:
                signature = chance.choice(document["signatures"])
                signature["sig"] = _inside(signature["sig"], chance)
            case _:
                return structured.edit(data, chance)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return edits.edit(data, chance)
    if chance.random() < 0.3:
        document = dict(chance.sample(list(document.items()), len(document)))
    return json.dumps(document, separators=chance.choice(((",", ":"), (", ", ": ")))).encode()


def _inside(text: str, chance: Random) -> str:
    return b64encode(structured.edit(unwrapped(text) or b"{}", chance)).decode()


def edited(payload: bytes, chance: Random) -> bytes:
    """Change what is to be signed anew: its values in their only spelling mostly, else how it is written."""
    for _ in range(chance.choice((1, 1, 1, 2))):
        try:
            if chance.random() < 0.3:
                payload = structured.edit(payload, chance)
            else:
                value = structured.changed(json.loads(payload), chance)
                payload = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")
        except (ValueError, RecursionError):
            payload = edits.edit(payload, chance)
    return payload


def signed_anew(data: bytes, kind: str, keys: Sequence[SigningKey], chance: Random) -> bytes:
    """Return another envelope whose contents were changed, and that the right keys have signed as they are."""
    payload = unwrapped(by_hand(data)["payload"]) or b"{}"
    return encode(envelope(kind, edited(payload, chance), keys))
