"""Private keys at rest."""

import base64
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from aigovtool.crypto import keyfile
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey, key_to_pem
from aigovtool.errors import ConfigurationError, ConflictError
from aigovtool.ids import Digest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    keyfile.make_private_directory(path)
    return path


def reason_of(path: Path) -> str | None:
    with pytest.raises(ConfigurationError) as caught:
        keyfile.read_secret_file(path)
    return caught.value.reason


def test_a_key_comes_back_as_it_was_written(home: Path) -> None:
    """Both kinds of private key survive the round trip, in files of mode 0600."""
    signing, tls = SigningKey.generate(), TlsKey.generate()
    keyfile.write_key(home / "signing.pem", signing)
    keyfile.write_key(home / "tls.pem", tls)
    assert keyfile.read_signing_key(home / "signing.pem").public == signing.public
    assert keyfile.read_tls_key(home / "tls.pem").spki_der == tls.spki_der
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {0o600}


def test_a_key_of_the_other_kind_is_refused(home: Path) -> None:
    """A TLS key is not taken for a signing key, nor the other way round, nor garbage for either."""
    keyfile.write_key(home / "tls.pem", TlsKey.generate())
    keyfile.write_key(home / "signing.pem", SigningKey.generate())
    keyfile.write_secret_file(home / "garbage.pem", Secret(b"not a key"))
    for read, name in (
        (keyfile.read_signing_key, "tls.pem"),
        (keyfile.read_tls_key, "signing.pem"),
        (keyfile.read_tls_key, "garbage.pem"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            read(home / name)
        assert caught.value.reason == "bad_key"


def test_a_key_that_the_library_cannot_name_is_refused(home: Path) -> None:
    """An identifier that says X448 before 32 bytes, or no bytes at all, is an internal error of the library's."""
    with key_to_pem(SigningKey.generate()) as pem:
        good = base64.b64decode(b"".join(pem.reveal().split(b"\n")[1:-2]))
    for at, bad in enumerate(
        (good.replace(b"\x06\x03\x2b\x65\x70", b"\x06\x03\x2b\x65\x6f"), good[:1] + b"\x0e" + good[2:16])
    ):
        text = base64.encodebytes(bad)
        lines = (b"-----BEGIN PRIVATE" + b" KEY-----", text.strip(), b"-----END PRIVATE" + b" KEY-----", b"")
        keyfile.write_secret_file(home / f"{at}.pem", Secret(b"\n".join(lines)))
        with pytest.raises(ConfigurationError) as caught:
            keyfile.read_signing_key(home / f"{at}.pem")
        assert caught.value.reason == "bad_key"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o777])
def test_a_file_that_others_may_touch_is_refused(home: Path, mode: int) -> None:
    """Any permission of group or others makes the file unsafe, and the fix is named."""
    path = home / "key"
    keyfile.write_secret_file(path, Secret(b"secret"))
    path.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        keyfile.read_secret_file(path)
    assert caught.value.reason == "unsafe_key_file"
    assert caught.value.fix == f"chmod 600 {path}"


def test_a_link_is_not_followed(home: Path) -> None:
    """A symbolic link to a perfectly safe file is refused."""
    keyfile.write_secret_file(home / "real", Secret(b"secret"))
    (home / "link").symlink_to(home / "real")
    assert reason_of(home / "link") == "unsafe_key_file"


def test_a_pipe_or_directory_is_refused_without_waiting(home: Path) -> None:
    """A named pipe in place of the key does not hang the reader."""
    os.mkfifo(home / "pipe", 0o600)
    assert reason_of(home / "pipe") == "unsafe_key_file"
    assert reason_of(home) == "unsafe_key_file"


def test_reading_is_bounded(home: Path) -> None:
    """One byte over the bound is refused; the bound itself is read."""
    keyfile.write_secret_file(home / "key", Secret(bytes(100)))
    assert len(keyfile.read_secret_file(home / "key", max_bytes=100)) == 100
    with pytest.raises(ConfigurationError) as caught:
        keyfile.read_secret_file(home / "key", max_bytes=99)
    assert caught.value.reason == "key_file_too_large"
    assert reason_of(home / "absent") == "missing_key_file"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(home: Path) -> None:
    """Whoever owns the file could change it at any time."""
    keyfile.write_secret_file(home / "key", Secret(b"secret"))
    os.chown(home / "key", 12345, 12345)
    assert reason_of(home / "key") == "unsafe_key_file"


def test_an_existing_file_is_kept_unless_replacing_was_asked_for(home: Path) -> None:
    """A key is never overwritten by accident; replacing is atomic and leaves no temporary file."""
    path = home / "key"
    keyfile.write_secret_file(path, Secret(b"old"))
    with pytest.raises(ConflictError) as caught:
        keyfile.write_secret_file(path, Secret(b"new"))
    assert caught.value.reason == "key_file_exists"
    assert keyfile.read_secret_file(path).reveal() == b"old"
    keyfile.write_secret_file(path, Secret(b"new"), replace=True)
    assert keyfile.read_secret_file(path).reveal() == b"new"
    assert [entry.name for entry in home.iterdir()] == ["key"]


def test_replacing_a_link_replaces_the_link_not_its_target(home: Path) -> None:
    """Writing does not follow a link that somebody planted."""
    target = home / "target"
    target.write_bytes(b"precious")
    (home / "key").symlink_to(target)
    keyfile.write_secret_file(home / "key", Secret(b"new"), replace=True)
    assert target.read_bytes() == b"precious"
    assert not (home / "key").is_symlink()


def test_mode_is_private_from_the_first_moment_whatever_the_umask(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With umask 0 the file is 0600 when it is created, not after a later chmod."""
    seen: list[int] = []
    fsync = os.fsync

    def observe(descriptor: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", observe)
    before = os.umask(0)
    try:
        keyfile.write_secret_file(home / "key", Secret(b"secret"))
        keyfile.make_private_directory(home / "a" / "b")
    finally:
        os.umask(before)
    assert seen == [0o600, 0o700]
    assert stat.S_IMODE((home / "a").stat().st_mode) == stat.S_IMODE((home / "a" / "b").stat().st_mode) == 0o700


def test_a_shared_directory_is_refused(tmp_path: Path) -> None:
    """Whoever can write to the directory could replace the key."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError) as caught:
        keyfile.write_secret_file(shared / "key", Secret(b"secret"))
    assert caught.value.reason == "unsafe_key_directory"
    with pytest.raises(ConfigurationError) as caught:
        keyfile.make_private_directory(shared)
    assert caught.value.reason == "unsafe_key_directory"
    assert list(shared.iterdir()) == []


def test_keys_do_not_show_in_their_representation() -> None:
    """A logged key shows its public part only."""
    key = TlsKey.generate()
    private = f"{key.private().private_numbers().private_value:x}"
    assert private[:16] not in repr(key)
    assert repr(key).startswith("TlsKey(spki=")


def test_of_many_who_replace_what_they_read_one_does(home: Path) -> None:
    """At the same moment, again and again: nobody's content is taken away by who had not seen it."""
    path, writers, rounds = home / "party.json", 8, 20
    keyfile.write_secret_file(path, Secret(b"0"))

    def write(number: int, read: Digest, gate: Barrier) -> bool:
        gate.wait()
        try:
            keyfile.write_secret_file(path, Secret(f"{read} {number}".encode()), replace=True, instead_of=read)
        except ConflictError as error:
            assert error.reason == "key_file_changed"
            return False
        return True

    with ThreadPoolExecutor(writers) as pool:
        for _ in range(rounds):
            read, gate = keyfile.digest_of_secret_file(path), Barrier(writers)
            won = list(pool.map(lambda number: write(number, read, gate), range(writers)))  # noqa: B023
            assert won.count(True) == 1
            assert path.read_bytes() == f"{read} {won.index(True)}".encode()
    assert [one.name for one in home.iterdir()] == ["party.json"]


def test_what_is_gone_is_not_replaced(home: Path) -> None:
    """A file that was moved away, or is another one now, is not made anew from what was read of it."""
    path = home / "party.json"
    keyfile.write_secret_file(path, Secret(b"read"))
    read = keyfile.digest_of_secret_file(path)
    path.rename(home / "elsewhere.json")
    with pytest.raises(ConfigurationError) as gone:
        keyfile.write_secret_file(path, Secret(b"new"), replace=True, instead_of=read)
    assert gone.value.reason == "unwritable_key_file"
    keyfile.write_secret_file(path, Secret(b"another"))
    with pytest.raises(ConflictError) as other:
        keyfile.write_secret_file(path, Secret(b"new"), replace=True, instead_of=read)
    assert other.value.reason == "key_file_changed"
    assert path.read_bytes() == b"another"
