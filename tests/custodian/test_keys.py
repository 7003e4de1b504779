"""The custodian's key files: private, complete, and all of one key set."""

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.custodian.conftest import make_bench

from aigovtool.codec import decode
from aigovtool.crypto.keyfile import read_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope, SigningKey
from aigovtool.crypto.x509 import describe, from_pem
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.app import add_operator, initialise, open_custodian
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.custodian.store import parties
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    ConflictError,
    InvalidValueError,
    SignatureInvalidError,
)
from aigovtool.ledger.entry import PartyRole
from aigovtool.protocol.party import OperatorFile
from aigovtool.protocol.trust import open_key_set

NOW_MS = 1_800_000_000_000
SECRETS = ("commands.key", "log.key", "credentials.key", "keystore.key", "tls.key", "attestation.key")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "custodian"
    custodian_keys.create(made, ["localhost"], NOW_MS)
    return made


@pytest.mark.fault(4)
def test_every_file_is_private_from_the_start(tmp_path: Path) -> None:
    """No file or directory of a new custodian can be opened by anybody else."""
    made = tmp_path / "custodian"
    bench = make_bench(made)
    bench.custodian.database.close()
    found = list(made.rglob("*"))
    assert {path.name for path in found} >= {"root.key", "keys", "ledger.db", "operator.json", *SECRETS}
    assert [path for path in (made, *found) if stat.S_IMODE(path.lstat().st_mode) & 0o077] == []


@pytest.mark.parametrize("name", [*SECRETS, "root.pub", "key-set.json"])
def test_a_key_that_others_can_read_is_refused(name: str, directory: Path) -> None:
    """A key that somebody may have copied is not used; the message names the remedy."""
    (directory / "keys" / name).chmod(0o640)
    with pytest.raises(ConfigurationError) as caught:
        custodian_keys.load(directory)
    assert caught.value.reason == "unsafe_key_file"
    assert "chmod 600" in (caught.value.fix or "")


def test_a_link_in_place_of_a_key_is_refused(directory: Path) -> None:
    """A key is read from where it lies, not from where a link points."""
    path = directory / "keys" / "commands.key"
    path.rename(directory / "elsewhere.key")
    path.symlink_to(directory / "elsewhere.key")
    with pytest.raises(ConfigurationError) as caught:
        custodian_keys.load(directory)
    assert caught.value.reason == "unsafe_key_file"


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_key_is_an_error_and_not_a_new_key(name: str, directory: Path) -> None:
    """Serving never makes keys: a lost one is noticed."""
    (directory / "keys" / name).unlink()
    with pytest.raises(ConfigurationError) as caught:
        custodian_keys.load(directory)
    assert caught.value.reason == "missing_key_file"
    assert not (directory / "keys" / name).exists()


def swap(directory: Path, tmp_path: Path, name: str) -> None:
    """Put the file of another, equally valid custodian in place of this one's."""
    other = tmp_path / "other"
    custodian_keys.create(other, ["localhost"], NOW_MS)
    (other / "keys" / name).replace(directory / "keys" / name)


@pytest.mark.parametrize("name", SECRETS)
def test_keys_of_another_custodian_do_not_fit(name: str, directory: Path, tmp_path: Path) -> None:
    """Each private key is compared with what the signed key set, or the certificate, says."""
    swap(directory, tmp_path, name)
    with pytest.raises(ConfigurationError) as caught:
        custodian_keys.load(directory)
    assert caught.value.reason == "key_set_mismatch"


@pytest.mark.parametrize("name", ["root.pub", "key-set.json"])
def test_a_key_set_of_another_root_does_not_verify(name: str, directory: Path, tmp_path: Path) -> None:
    """The key set is the root's, and the root is this one."""
    swap(directory, tmp_path, name)
    with pytest.raises(SignatureInvalidError):
        custodian_keys.load(directory)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-20],
    "empty": lambda _: b"",
    "altered": lambda data: data.replace(b"A", b"B"),
    "zeros": lambda _: bytes(99),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_typed_error(damage: str, directory: Path) -> None:
    """Cut, empty, altered or of zeros: an error of ours that shows nothing of the content."""
    for name in (*SECRETS, "root.pub", "key-set.json", "tls.pem", "tls-ca.pem"):
        path = directory / "keys" / name
        content = path.read_bytes()
        damaged = DAMAGES[damage](content)
        if damaged != content:  # a key of raw bytes may not have the letter
            path.write_bytes(damaged)
            _load_damaged(directory, name, content)
            path.write_bytes(content)
    custodian_keys.load(directory)


def _load_damaged(directory: Path, name: str, content: bytes) -> None:
    try:
        custodian_keys.load(directory)
    except AIGovToolError as error:
        shown = f"{error.message} {error.fix}"
        assert not any(line in shown for line in re.findall(r"[A-Za-z0-9+/]{16,}", content.decode(errors="ignore")))
    else:
        assert name in {"tls-ca.pem", "tls.pem"}, "the damage was not noticed"


def test_serving_never_reads_the_root_key(tmp_path: Path) -> None:
    """A custodian whose root key was moved offline opens and knows the same root."""
    made = tmp_path / "custodian"
    bench = make_bench(made)
    root = bench.custodian.keys.root
    bench.custodian.database.close()
    (made / "offline" / "root.key").unlink()
    (made / "offline").rmdir()
    again = open_custodian(made)
    again.database.close()
    assert again.keys.root == root


def test_the_root_signs_the_key_set_and_nothing_else(directory: Path) -> None:
    """No other key is the root, and the key set verifies under the pinned root alone."""
    keys = custodian_keys.load(directory)
    others = [keys.commands, keys.log, keys.credentials]
    assert len({key.public for key in others} | {keys.root}) == 4
    assert open_key_set(keys.key_set_envelope, keys.root) == keys.key_set
    for key in others:
        with pytest.raises(SignatureInvalidError):
            open_key_set(keys.key_set_envelope, key.public)
    with pytest.raises(SignatureInvalidError) as caught:
        open_key_set(keys.key_set_envelope, keys.root, at_least=keys.key_set.version + 1)
    assert caught.value.reason == "key_set_rollback"


def test_a_second_custodian_is_not_made_over_the_first(directory: Path) -> None:
    """Not one byte of an existing custodian is replaced."""
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(ConflictError) as caught:
        initialise(directory, url="https://localhost:1", hosts=["localhost"], operator="alice", allow_simulated=False)
    assert caught.value.reason == "key_file_exists"
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """Whoever can write there could put keys of their own in place."""
    made = tmp_path / "custodian"
    made.mkdir()
    made.chmod(0o777)
    with pytest.raises(ConfigurationError) as caught:
        custodian_keys.create(made, ["localhost"], NOW_MS)
    assert caught.value.reason == "unsafe_key_directory"
    assert list(made.iterdir()) == []


def test_the_representation_of_the_keys_shows_no_secret(directory: Path) -> None:
    """A traceback or a log line with all keys in it gives none away."""
    keys: CustodianKeys = custodian_keys.load(directory)
    shown = repr(keys)
    for key in (keys.commands, keys.log, keys.credentials, keys.keystore):
        seed = key.to_secret().reveal()
        assert seed.hex() not in shown
        assert repr(seed) not in shown


def test_the_first_operators_file_fits_its_custodian(tmp_path: Path) -> None:
    """What `init` hands to the operator pins this root, names this keystore, and verifies this key set."""
    made = tmp_path / "custodian"
    bench = make_bench(made)
    bench.custodian.database.close()
    file = decode(read_secret_file(made / "operator.json").reveal(), OperatorFile)
    keys = bench.custodian.keys
    assert (file.custodian.root, file.keystore) == (keys.root.raw, keys.keystore.public)
    envelope = decode((made / "keys" / "key-set.json").read_bytes(), Envelope)
    assert open_key_set(envelope, keys.root).keystore == file.keystore


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": "http://127.0.0.1:7443"}, "bad_url"),
        ({"url": "notaurl"}, "bad_url"),
        ({"url": ""}, "bad_url"),
        ({"url": "https://custodian.example:8440/path"}, "bad_url"),
        ({"url": "https://custodian.example:99999"}, "bad_url"),
        ({"url": "https://custodian.example:0"}, "bad_url"),
        ({"hosts": ["not a host"]}, None),
        ({"operator": "Not A Name"}, "bad_name"),
    ],
)
def test_what_no_party_could_use_makes_no_custodian(
    changes: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    """Refused before anything is written: the address goes into every party's file and cannot be changed later."""
    wanted: dict[str, Any] = {
        "url": "https://127.0.0.1:7443",
        "hosts": ["127.0.0.1"],
        "operator": "alice",
        "allow_simulated": False,
    }
    with pytest.raises(InvalidValueError) as caught:
        initialise(tmp_path / "custodian", **{**wanted, **changes})
    assert reason is None or caught.value.reason == reason
    assert list(tmp_path.iterdir()) == []


def test_an_operator_can_be_enrolled_from_the_directory(tmp_path: Path, ledger: str | None) -> None:
    """Whoever holds the keys is not locked out when no operator can act any more; names are still given out once."""
    directory = tmp_path / "custodian"
    initialise(
        directory,
        url="https://127.0.0.1:7443",
        hosts=["127.0.0.1"],
        operator="alice",
        allow_simulated=False,
        ledger=ledger,
    )
    add_operator(directory, "bob", tmp_path / "bob.json")
    written = decode((tmp_path / "bob.json").read_bytes(), OperatorFile)
    assert (tmp_path / "bob.json").stat().st_mode & 0o777 == 0o600
    custodian = open_custodian(directory)
    party = custodian.database.submit(lambda running: parties.require(running, PartyRole.OPERATOR, "bob")).result(20)
    custodian.database.close()
    assert party.key == SigningKey.from_secret(Secret(written.key)).public.raw
    with pytest.raises(ConflictError):
        add_operator(directory, "bob", tmp_path / "again.json")
    assert not (tmp_path / "again.json").exists()


async def test_an_operator_who_is_enrolled_from_the_directory_is_one_by_the_ledgers_time(tmp_path: Path) -> None:
    """A clock that once showed a later year has ended every credential; this is the way out."""
    directory = tmp_path / "custodian"
    bench = make_bench(directory)
    bench.now_ms += 5 * 365 * 86_400_000
    ledger_ms = await bench.custodian.database.run(bench.custodian.now)
    bench.custodian.database.close()
    add_operator(directory, "bob", tmp_path / "bob.json")
    written = decode((tmp_path / "bob.json").read_bytes(), OperatorFile)
    (certificate,) = from_pem(written.certificate.encode())
    assert describe(certificate).not_before_ms < ledger_ms < describe(certificate).not_after_ms
    custodian = open_custodian(directory)
    party = await custodian.database.run(lambda running: parties.require(running, PartyRole.OPERATOR, "bob"))
    custodian.database.close()
    assert party.not_after_ms // 1000 * 1000 == describe(certificate).not_after_ms
