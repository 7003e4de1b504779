"""stub"""
from typing import BinaryIO
from aigovtool.crypto.secret import ModelKey
from aigovtool.enclave.engines.engine import PlainModel
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.errors import PackageError
from aigovtool.ids import Digest


def open_model(file, key: ModelKey, sealer: bytes, manifest_digest: Digest) -> PlainModel:
    raise PackageError("stub")
