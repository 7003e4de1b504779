"""Consumer files that are not what they should be, and a client that keeps its secrets."""

from pathlib import Path

import msgspec
import pytest
from tests.consumer.conftest import World

from aigovtool.codec import decode, encode
from aigovtool.consumer.credential import parse_pins, read_consumer_file
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import ConfigurationError, InvalidValueError
from aigovtool.ids import OperatorId, RequestKey
from aigovtool.protocol.party import BorrowerFile, ConsumerFile, OperatorFile


def rewritten(world: World, **changes: object) -> Path:
    file = msgspec.structs.replace(decode(world.file.read_bytes(), ConsumerFile), **changes)
    path = world.directory / "changed.json"
    path.write_bytes(encode(file))
    path.chmod(0o600)
    return path


def test_a_file_that_others_can_read_is_refused(world: World) -> None:
    """It holds a private key."""
    world.file.chmod(0o644)
    with pytest.raises(ConfigurationError) as caught:
        read_consumer_file(world.file)
    assert caught.value.reason == "unsafe_key_file"


def test_certificate_key_and_name_belong_together(world: World) -> None:
    """A mixed-up file is named as such before any connection."""
    other = SigningKey.generate().to_secret().reveal()
    certificate = decode(world.consumer_file("x.json", consumer="cardiology").read_bytes(), ConsumerFile).certificate
    for changes in ({"key": other}, {"consumer": "cardiology"}, {"certificate": certificate}, {"certificate": "x"}):
        with pytest.raises(ConfigurationError) as caught:
            read_consumer_file(rewritten(world, **changes))
        assert caught.value.reason == "bad_consumer_file"


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"party":"operator"}'])
def test_a_file_that_is_no_consumer_file_is_refused(world: World, content: bytes) -> None:
    """An operator's file is not a consumer's."""
    world.file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_consumer_file(world.file)
    assert caught.value.reason == "bad_consumer_file"


def test_no_secret_is_shown(world: World) -> None:
    """A credential may end up in a debugger or a log."""
    credential = read_consumer_file(world.file)
    file = decode(world.file.read_bytes(), ConsumerFile)
    assert file.key.hex() not in repr(credential)
    assert credential.salt_key.reveal().hex() not in repr(credential)
    assert repr(file.key) not in repr(credential)


def test_a_salt_is_the_same_for_the_same_request_and_consumer_only(world: World) -> None:
    """A repetition by another process must fit the first receipt; another consumer must not guess it."""
    mine, again = read_consumer_file(world.file), read_consumer_file(world.file)
    other = read_consumer_file(world.consumer_file("other.json"))
    assert mine.salt(RequestKey("a")) == again.salt(RequestKey("a"))
    assert len({mine.salt(RequestKey("a")), mine.salt(RequestKey("b")), other.salt(RequestKey("a"))}) == 3


@pytest.mark.parametrize("pins", [{"Bad Name": "sha256:" + "0" * 64}, {"m": "0" * 64}, {"m": "sha256:" + "A" * 64}])
def test_pins_are_checked(pins: dict[str, str]) -> None:
    """A mistyped digest must not become no digest."""
    with pytest.raises(InvalidValueError):
        parse_pins(pins)


def test_a_file_of_another_party_is_named_as_such(world: World) -> None:
    """Three files look alike from outside: the error says which this is, and which is wanted."""
    consumer = decode(world.file.read_bytes(), ConsumerFile)
    seed, custodian, certificate = consumer.key, consumer.custodian, consumer.certificate
    borrower = BorrowerFile(
        borrower=consumer.borrower, custodian=custodian, certificate=certificate, enrolment_key=seed
    )
    operator = OperatorFile(
        operator=OperatorId("alice"), custodian=custodian, certificate=certificate, key=seed, keystore=bytes(32)
    )
    path = world.directory / "other.json"
    path.touch(0o600)
    for file, name in ((borrower, "a borrower file"), (operator, "an operator file")):
        path.write_bytes(encode(file))
        with pytest.raises(ConfigurationError) as caught:
            read_consumer_file(path)
        assert caught.value.reason == "wrong_party_file"
        assert f"is {name}; here a consumer file" in caught.value.message
