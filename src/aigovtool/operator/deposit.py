"""The file beside a sealed package that carries its key, wrapped so that only the custodian can open it.

It is no secret: HPKE to the custodian's keystore key, in the context of that custodian and manifest. It still
travels apart from the package by habit: `X.aigov` and `X.aigov.key`.
"""

from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.keyfile import read_secret_file, write_secret_file
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.wrap import wrap
from aigovtool.errors import ConfigurationError, InputError
from aigovtool.ids import Digest, KeyId
from aigovtool.protocol.release import deposit_context

_MAX_DEPOSIT_BYTES: Final = 4096


class KeyDeposit(Message):
    """A model key wrapped to the keystore of `custodian`, for the package with this manifest digest."""

    custodian: KeyId
    manifest: Digest
    wrapped_key: Annotated[bytes, Meta(min_length=80, max_length=80)]


def make_deposit(model_key: ModelKey, manifest: Digest, custodian: KeyId, keystore: bytes) -> KeyDeposit:
    """Wrap `model_key` to the custodian's X25519 keystore key.

    Raises:
        SignatureInvalidError: `keystore` is not a usable key.
    """
    wrapped = wrap(model_key.secret, keystore, deposit_context(custodian, manifest))
    return KeyDeposit(custodian=custodian, manifest=manifest, wrapped_key=wrapped)


def write_deposit(path: Path, deposit: KeyDeposit, *, replace: bool = False) -> None:
    """Write a deposit with mode 0600; raises as `write_secret_file`."""
    write_secret_file(path, Secret(encode(deposit)), replace=replace)


def read_deposit(path: Path, *, custodian: KeyId, manifest: Digest) -> KeyDeposit:
    """Read the deposit for one custodian and manifest.

    Raises:
        ConfigurationError: missing, `bad_deposit`, `wrong_deposit` when it is for another package or custodian.
    """
    content = read_secret_file(path, max_bytes=_MAX_DEPOSIT_BYTES).reveal()
    try:
        deposit = decode(content, KeyDeposit, max_bytes=_MAX_DEPOSIT_BYTES)
    except InputError as error:
        raise ConfigurationError(
            f"{path} is not a wrapped model key: {error.message}",
            reason="bad_deposit",
            fix="give the .aigov.key file that `aigovtool model seal` wrote",
        ) from None
    if (deposit.custodian, deposit.manifest) != (custodian, manifest):
        what = "custodian" if deposit.custodian != custodian else "package"
        raise ConfigurationError(
            f"{path} is the key for another {what}",
            reason="wrong_deposit",
            fix="give the .aigov.key file that was written with this package, or seal the model again",
        )
    return deposit
