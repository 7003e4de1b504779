"""What comes sealed, in both directions: the head of a request, its frames, and answers, cut into pieces at any place.

`conversations` are frames under a secret that the reader has, changed, out of order, and made anew by somebody who has
the secret too; `heads` is how a request is taken apart before anything is opened; `answers` are what a consumer opens.
What is opened must be what a reading by hand finds, with a key derived by hand.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator
from hashlib import sha256
from random import Random
from typing import Final, cast

from conformance.malformed import edits
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aigovtool.consumer import sealed as consumer
from aigovtool.consumer.exchange import Failure, Reply
from aigovtool.crypto.frames import FRAME_BYTES, FrameOpener, FrameSealer
from aigovtool.enclave.gateway import sealed as enclave
from aigovtool.errors import InputError, MalformedError, SignatureInvalidError
from aigovtool.protocol.sealed import MEDIA_TYPE, AnswerField, SealedStatus, answer_info, body_info, status_prefix
from assurance.parsers import documents
from assurance.parsers.parser import Kind, Parser, Parts
from assurance.parsers.reading import NotJsonError, by_hand

_SECRET: Final = sha256(b"a secret of a test").digest()
_DIGEST: Final = sha256(b"a head of a test").digest()
_SALT: Final = sha256(b"a salt of a test").digest()
_MOST_BYTES: Final = 1 << 20
_LAST: Final = 1 << 31


class NotSealedError(Exception):
    """Bytes that are no conversation."""


# --- By hand -------------------------------------------------------------------------------------


def _derived(salt: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    """RFC 5869, with SHA-256: 39 bytes are two blocks."""
    key = hmac.digest(salt or bytes(32), _SECRET, "sha256")
    first = hmac.digest(key, info + b"\x01", "sha256")
    out = first + hmac.digest(key, first + info + b"\x02", "sha256")
    return AESGCM(out[:32]), out[32:39]


def _texts(data: bytes, salt: bytes, info: bytes) -> list[bytes]:
    """Read a whole conversation."""
    (cipher, prefix), at, over = _derived(salt, info), 0, False
    texts: list[bytes] = []
    while at < len(data):
        head = int.from_bytes(data[at : at + 4], "big")
        size, last = head % _LAST, head >= _LAST
        sealed = data[at + 4 : at + 4 + size]
        if over or len(data) - at < 4 + size or not 16 <= size <= FRAME_BYTES + 16:
            raise NotSealedError
        nonce = prefix + len(texts).to_bytes(4, "big") + bytes([last])
        try:
            texts.append(cipher.decrypt(nonce, sealed, None))
        except InvalidTag:
            raise NotSealedError from None
        at, over = at + 4 + size, last
    if not over:
        raise NotSealedError
    return texts


# --- Frames --------------------------------------------------------------------------------------


def _sealed(info: bytes, salt: bytes, *texts: bytes) -> Parts:
    sealer = FrameSealer(_SECRET, salt, info)
    return tuple(sealer.seal(text, last=number == len(texts) - 1) for number, text in enumerate(texts))


def _edit_frames(parts: Parts, chance: Random) -> Parts:
    """Change frames: their order, number, flags, lengths and bytes; or cut them elsewhere."""
    frames = list(parts)
    at = chance.randrange(len(frames))
    match chance.randrange(8):
        case 0:
            del frames[at]
        case 1:
            chance.shuffle(frames)
        case 2:
            frames.insert(chance.randrange(len(frames) + 1), frames[at])
        case 3:
            frames[at] = bytes([frames[at][0] ^ 0x80]) + frames[at][1:] if frames[at] else b"\x80"
        case 4:
            size = chance.choice((0, 15, 16, 17, FRAME_BYTES + 16, FRAME_BYTES + 17, _LAST - 1, _LAST, 2 * _LAST - 1))
            frames[at] = size.to_bytes(4, "big") + frames[at][4:]
        case 5:
            frames[at] = frames[at][: chance.randrange(len(frames[at]) + 1)]
        case 6:
            joined = b"".join(frames)
            place = chance.randrange(len(joined) + 1)
            frames = [joined[:place], joined[place:]]
        case _:
            frames[at] = edits.edit(frames[at], chance)
    return tuple(frames) or (b"",)


def _in_pieces(data: bytes) -> list[bytes]:
    """Cut at places that only the bytes decide, so that the same input is always the same."""
    chance = Random(sha256(data).digest())
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(5)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def _read_frames(parts: Parts) -> list[bytes]:
    opener = FrameOpener(_SECRET, b"", body_info(_DIGEST))
    texts: list[bytes] = []
    for piece in _in_pieces(b"".join(parts)):
        texts += opener.feed(piece)
    opener.require_complete()
    return texts


def _wrong_frames(parts: Parts, value: object) -> str | None:
    try:
        found = _texts(b"".join(parts), b"", body_info(_DIGEST))
    except NotSealedError:
        return "opened what is no conversation"
    return None if found == value else "opened another text than was sealed"


def _refused_frames(parts: Parts, _error: Exception) -> str | None:
    try:
        _texts(b"".join(parts), b"", body_info(_DIGEST))
    except NotSealedError:
        return None
    return "refused a whole conversation"


# --- Heads ---------------------------------------------------------------------------------------


def _edit_head(parts: Parts, chance: Random) -> Parts:
    size = chance.choice((0, 1, 2, 255, 4096, 16 << 10, (16 << 10) + 1, 65_535))
    weird = (b"", b"\x00", size.to_bytes(2, "big") + bytes(chance.randrange(20_000)), size.to_bytes(2, "big"))
    return (chance.choice((edits.edit(parts[0], chance), *weird)),)


def _read_head(parts: Parts) -> tuple[bytes, bytes]:
    async def read() -> tuple[bytes, bytes]:
        async def stream() -> AsyncIterator[bytes]:
            for piece in _in_pieces(parts[0]):
                yield piece

        pieces = stream()
        head, rest = await enclave._sealed_head(pieces)  # noqa: SLF001 - the route calls it first
        return head, rest + b"".join([piece async for piece in pieces])

    return asyncio.run(read())


def _split(data: bytes) -> tuple[bytes, bytes] | None:
    size = int.from_bytes(data[:2], "big")
    if len(data) < 2 + size or len(data) < 2 or size > 16 << 10:
        return None
    return data[2 : 2 + size], data[2 + size :]


def _wrong_head(parts: Parts, value: object) -> str | None:
    return None if value == _split(parts[0]) else "took another head than was sent"


def _refused_head(parts: Parts, _error: Exception) -> str | None:
    return None if _split(parts[0]) is None else "refused a whole head"


# --- Answers -------------------------------------------------------------------------------------


def _answer(status: SealedStatus, *bodies: bytes) -> Parts:
    first, *more = bodies
    return (_SALT, *_sealed(answer_info(_DIGEST), _SALT, status_prefix(status) + first, *more))


def _edit_answer(parts: Parts, chance: Random) -> Parts:
    """Change the frames; or make them anew, as an enclave could that is wrong about how an answer begins."""
    if chance.random() < 0.5:
        return (parts[0] if chance.random() < 0.9 else edits.edit(parts[0], chance), *_edit_frames(parts[1:], chance))
    text = b"".join(_texts(b"".join(parts[1:]), _SALT, answer_info(_DIGEST)))
    begin = chance.choice((text[:4], bytes(4), b"\xff" * 4, len(text).to_bytes(4, "big"), b""))
    changed = chance.choice((begin + text[4:], edits.edit(text, chance)))[:FRAME_BYTES]
    return (_SALT, *_sealed(answer_info(_DIGEST), _SALT, changed))


def _read_answer(parts: Parts) -> Reply:
    reply = Reply(200, {"content-type": MEDIA_TYPE}, b"".join(parts), None)
    opened = consumer._opened(reply, _SECRET, _DIGEST, _MOST_BYTES)  # noqa: SLF001 - what a client does with an answer
    if isinstance(opened, Failure):
        raise MalformedError(opened.detail, reason=opened.kind.name.lower())
    return opened


def _answered(data: bytes) -> tuple[int, dict[str, str], bytes]:
    if len(data) < 32:
        raise NotSealedError
    text = b"".join(_texts(data[32:], data[:32], answer_info(_DIGEST)))
    size = int.from_bytes(text[:4], "big")
    if len(text) < 4 + size:
        raise NotSealedError
    try:
        status = by_hand(text[4 : 4 + size])
    except NotJsonError:
        raise NotSealedError from None
    said = cast("dict[str, object]", status)
    fields = cast("list[dict[str, str]]", said["headers"])
    return cast("int", said["status"]), {field["name"]: field["value"] for field in fields}, text[4 + size :]


def _wrong_answer(parts: Parts, value: object) -> str | None:
    found = cast("Reply", value)
    try:
        expected = _answered(b"".join(parts))
    except NotSealedError:
        return "opened what is no answer"
    return None if (found.status, dict(found.headers), found.body) == expected else "another answer than was sealed"


def _make() -> tuple[Kind, ...]:
    fields = [
        AnswerField(name="content-type", value="application/json"),
        AnswerField(name="aigovtool-receipt", value="A"),
    ]
    good, bad = SealedStatus(status=200, headers=fields), SealedStatus(status=402, headers=[])
    long = bytes(range(256)) * 8
    return (
        Kind(
            name="conversations",
            genuine=tuple(
                _sealed(body_info(_DIGEST), b"", *texts)
                for texts in ([b""], [b"scan"], [b"a", b"", b"b"], [long, long, b"z"], [b"x"] * 6)
            ),
            edit=_edit_frames,
            read=_read_frames,
            wrong=_wrong_frames,
            refusals=(MalformedError, SignatureInvalidError),
            refused_wrongly=_refused_frames,
            weight=4,
        ),
        Kind(
            name="heads",
            genuine=((b"\x00\x04head",), (b"\x00\x04headrest",), (b"\x00\x00",), (b"\x40\x00" + bytes(16 << 10),)),
            edit=_edit_head,
            read=_read_head,
            wrong=_wrong_head,
            refusals=(MalformedError,),
            refused_wrongly=_refused_head,
            weight=2,
        ),
        Kind(
            name="answers",
            genuine=(_answer(good, b"{}"), _answer(bad, b""), _answer(good, long, long, b"end")),
            edit=_edit_answer,
            read=_read_answer,
            wrong=_wrong_answer,
            refusals=(InputError,),
            weight=4,
        ),
    )


PARSER: Final = Parser(
    name="sealed-requests",
    claim="Whoever passes sealed requests and answers on has nothing opened that its other end has not sealed.",
    counts="frames dropped, doubled, exchanged, cut and changed, with other lengths and flags; heads of any length; "
    "answers with other salts, and answers that an enclave seals wrongly; all cut into pieces at any places. What is "
    "opened, and what is refused, must be what a reading by hand finds, with keys derived by hand.",
    shows_not="that AES-GCM and HPKE hold. What is in a head is read by the parser of all signed messages.",
    covers=(
        *documents.COVERS,
        "src/aigovtool/consumer/sealed.py",
        "src/aigovtool/crypto/frames.py",
        "src/aigovtool/enclave/gateway/sealed.py",
        "src/aigovtool/protocol/sealed.py",
        "assurance/parsers/sealed_requests.py",
    ),
    make=_make,
)
