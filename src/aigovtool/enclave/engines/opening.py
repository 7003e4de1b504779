"""A package and its key in, plaintext in memory out: the reader of `aigovtool.package`, told where to write.

Beyond what `PackageReader` and `SealedFile` check (docs/spec/package.md section 5), this demands the manifest
digest that the custodian released the key for. Segments are decrypted into the memory in which they stay.

The borrower's host may change the file while it is read: what counts is only ever the copy in memory.
"""

import hmac
from concurrent.futures.thread import ThreadPoolExecutor
from typing import BinaryIO

from aigovtool.crypto.secret import ModelKey
from aigovtool.crypto.sign import VerifyKey
from aigovtool.enclave.engines.engine import PlainModel
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.private_files import GRAPH, ModelFolder
from aigovtool.errors import PackageError
from aigovtool.ids import Digest
from aigovtool.package.sealing import PackageReader


def open_model(
    stream: BinaryIO, key: ModelKey, sealer: bytes, expected: Digest, folder: ModelFolder | None = None
) -> PlainModel:
    """Return the decrypted package; the caller wipes it.

    Args:
        stream: the package, seekable.
        key: the model key.
        sealer: raw Ed25519 public key that must have signed the manifest.
        expected: the manifest digest of the only package that is accepted.
        folder: where its files shall lie; without it they lie in buffers.

    Raises:
        SignatureInvalidError: the manifest is not signed by `sealer`.
        PackageError: not intact, not under this key, or another package (`wrong_digest`).
        FaultError: it cannot be read.
        EngineError: there is no memory for it (`out_of_memory`).
    """
    reader = PackageReader(stream, VerifyKey(sealer))
    if not hmac.compare_digest(reader.manifest_digest, expected):
        raise PackageError(
            "this is another package than the one that the key was released for",
            reason="wrong_digest",
            fix="fetch the package that was registered under this digest",
        )
    model = PlainModel(ModelInterface(reader.manifest.inputs, reader.manifest.outputs), [], folder)
    try:
        # Hashing runs beside decryption, in a thread that ends with this block.
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as executor:
            for number, file in enumerate(reader.open_files(key)):
                if folder is not None:
                    with folder.file(file.name if number else GRAPH, file.size_bytes) as place:
                        file.decrypt_into(place, executor=executor)
                    continue
                plain = bytearray(file.size_bytes)
                model.files.append((file.name, plain))
                file.decrypt_into(memoryview(plain), executor=executor)
    except BaseException:
        model.wipe()
        raise
    return model
