"""Everything that the child's libraries load lazily, used once before the sandbox closes.

`cryptography` imports parts of itself at first use, and at the first failure; ONNX Runtime reads about the
processor at its first session. After the sandbox is entered no file can be opened, so each kind of thing that
the worker will do is done here once with throw-away keys: succeeding, and failing.
"""

import contextlib
from typing import Final

from aigovtool.codec import Message, decode_signed, encode
from aigovtool.crypto.aead import (
    CONTEXT_BYTES,
    TAG_BYTES,
    FileOpener,
    FileSealer,
    check_key,
    key_commitment,
    new_model_key,
    new_salt,
)
from aigovtool.crypto.sign import Envelope, SigningKey, open_envelope, seal
from aigovtool.crypto.wrap import WrapKey, wrap
from aigovtool.enclave.engines.engine import Engine
from aigovtool.enclave.engines.finite import require_finite
from aigovtool.enclave.engines.ipc import Limit
from aigovtool.enclave.engines.limiting import limited
from aigovtool.errors import AIGovToolError
from aigovtool.protocol.tensor import Datatype, Tensor

_FOR_EVER: Final = 1 << 63


class _Line(Message):
    text: str


def rehearse(engine: Engine) -> None:
    """Use the engine and every primitive once.

    Raises:
        ConfigurationError: the engine does not work here.
    """
    engine.warm_up()
    _rehearse_unwrapping()
    _rehearse_signatures()
    _rehearse_decryption()
    _rehearse_terms()


def _rehearse_unwrapping() -> None:
    key, model_key = WrapKey.generate(), new_model_key()
    wrapped = wrap(model_key.secret, key.public, b"right")
    key.unwrap(wrapped, b"right")
    for context, data in ((b"wrong", wrapped), (b"right", b"")):
        with contextlib.suppress(AIGovToolError):
            key.unwrap(data, context)


def _rehearse_signatures() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    envelope = decode_signed(encode(seal("rehearsal.v1", _Line(text="x"), key)), Envelope)
    open_envelope(envelope, "rehearsal.v1", _Line, [key.public])
    with contextlib.suppress(AIGovToolError):
        other.public.verify(envelope.signatures[0].sig, b"")


def _rehearse_decryption() -> None:
    key, salt, context = new_model_key(), new_salt(), bytes(CONTEXT_BYTES)
    check_key(key, salt, key_commitment(key, salt))
    sealed = bytearray(1 + TAG_BYTES)
    FileSealer(key, salt, context, 0).seal_into(b"x", sealed, last=True)
    opener, plain = FileOpener(key, salt, context, 0), memoryview(bytearray(1))
    opener.open_into(0, sealed, plain, last=True)
    with contextlib.suppress(AIGovToolError):
        opener.open_into(1, sealed, plain, last=True)


def _rehearse_terms() -> None:
    for datatype in (Datatype.FP16, Datatype.FP32, Datatype.FP64):
        for lowest in (False, True):
            limit = Limit("y", top_k=1, lowest=lowest, decimals=1)
            tensor = Tensor("y", datatype, (1, 2), bytes(2 * datatype.size_bytes))
            limited([tensor], [limit], _FOR_EVER)
            require_finite([tensor], _FOR_EVER)
