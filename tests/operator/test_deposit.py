from pathlib import Path

import msgspec
import pytest

from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.wrap import WrapKey
from aigovtool.errors import ConfigurationError, SignatureInvalidError
from aigovtool.ids import Digest
from aigovtool.operator.deposit import make_deposit, read_deposit, write_deposit
from aigovtool.protocol.release import deposit_context

CUSTODIAN, KEYSTORE = SigningKey.generate().public.key_id, WrapKey.generate()
MANIFEST, OTHER = Digest("sha256:" + "1" * 64), Digest("sha256:" + "2" * 64)
KEY = bytes(range(32))


def test_only_the_custodian_opens_a_deposit_and_only_for_its_manifest(tmp_path: Path) -> None:
    """The file shows nothing of the key, and the ciphertext opens in one context."""
    path = tmp_path / "x.aigov.key"
    write_deposit(path, make_deposit(ModelKey(Secret(KEY)), MANIFEST, CUSTODIAN, KEYSTORE.public))
    assert KEY.hex().encode() not in path.read_bytes()
    assert KEY not in path.read_bytes()
    deposit = read_deposit(path, custodian=CUSTODIAN, manifest=MANIFEST)
    assert KEYSTORE.unwrap(deposit.wrapped_key, deposit_context(CUSTODIAN, MANIFEST)).reveal() == KEY
    with pytest.raises(SignatureInvalidError):
        KEYSTORE.unwrap(deposit.wrapped_key, deposit_context(CUSTODIAN, OTHER))
    with pytest.raises(SignatureInvalidError):
        WrapKey.generate().unwrap(deposit.wrapped_key, deposit_context(CUSTODIAN, MANIFEST))


def test_the_key_of_another_package_or_custodian_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    """The error says which of the two it is."""
    path = tmp_path / "x.aigov.key"
    write_deposit(path, make_deposit(ModelKey(Secret(KEY)), MANIFEST, CUSTODIAN, KEYSTORE.public))
    for custodian, manifest, word in (
        (CUSTODIAN, OTHER, "package"),
        (SigningKey.generate().public.key_id, MANIFEST, "custodian"),
    ):
        with pytest.raises(ConfigurationError, match=word) as refused:
            read_deposit(path, custodian=custodian, manifest=manifest)
        assert refused.value.reason == "wrong_deposit"


def test_anything_else_is_no_deposit(tmp_path: Path) -> None:
    """Another document, or a wrapped key of another length."""
    path = tmp_path / "x.aigov.key"
    good = make_deposit(ModelKey(Secret(KEY)), MANIFEST, CUSTODIAN, KEYSTORE.public)
    for content in (b"", b"{}", msgspec.json.encode(msgspec.structs.replace(good, wrapped_key=b"short"))):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigurationError) as refused:
            read_deposit(path, custodian=CUSTODIAN, manifest=MANIFEST)
        assert refused.value.reason == "bad_deposit"
