"""The certificate of the custodian's TLS server: renewed for the same key and hosts, kept, and taken up."""

import logging
import stat
from pathlib import Path

import pytest

from aigovtool.crypto.keyfile import read_tls_key, write_key, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import (
    describe,
    from_pem,
    is_issued_by,
    issue_server_certificate,
    new_authority,
    spki_sha256,
    to_pem,
)
from aigovtool.custodian import certificate as certificates
from aigovtool.custodian import keys as custodian_keys
from aigovtool.custodian.certificate import WARN_BEFORE_MS, Served
from aigovtool.errors import ConfigurationError, InvalidValueError

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
YEAR_MS = 365 * DAY_MS


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "custodian"
    custodian_keys.create(made, ["custodian.example", "10.0.0.7", "::1"], NOW_MS)
    return made


def served(directory: Path) -> Served:
    keys = custodian_keys.load(directory)
    return Served(directory, keys.tls, [keys.credentials_ca])


def put_given(directory: Path) -> None:
    """Put a certificate of another authority in place, for the custodian's own key."""
    other = TlsKey.generate()
    authority = new_authority(other, "Example Corp CA", not_before_ms=NOW_MS, not_after_ms=NOW_MS + YEAR_MS)
    key = read_tls_key(directory / "keys" / "tls.key")
    span = {"not_before_ms": NOW_MS, "not_after_ms": NOW_MS + YEAR_MS}
    given = issue_server_certificate(other, authority, key, ["custodian.example"], **span)
    write_secret_file(directory / "keys" / "tls.pem", Secret(to_pem(given)), replace=True)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "keys").iterdir()}


def test_a_renewed_certificate_has_the_same_key_and_hosts_and_another_year(directory: Path) -> None:
    """No party notices: the authority that its file pins, the key and the names stay; the old one is kept."""
    before, old = files(directory), certificates.show(directory)
    later = NOW_MS + 340 * DAY_MS
    kept = certificates.renew(directory, ["standby.example"], later)
    new = certificates.show(directory)
    assert set(old.hosts) == {"custodian.example", "10.0.0.7", "::1"}
    assert (set(new.hosts), new.own) == ({*old.hosts, "standby.example"}, True)
    assert (old.not_after_ms, new.not_after_ms) == (NOW_MS + YEAR_MS, later + YEAR_MS)
    certificate = from_pem((directory / "keys" / "tls.pem").read_bytes())[0]
    assert is_issued_by(certificate, from_pem(before["tls-ca.pem"])[0])
    assert spki_sha256(certificate) == custodian_keys.load(directory).tls.spki_sha256()
    assert kept.read_bytes() == before["tls.pem"]
    assert [name for name, content in files(directory).items() if before.get(name, content) != content] == ["tls.pem"]
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE((directory / "keys" / "tls.pem").stat().st_mode) == 0o600


def test_a_certificate_never_outlives_its_authority(directory: Path) -> None:
    """After ten years there is a new authority to be made, not a certificate that nobody accepts."""
    end = describe(from_pem((directory / "keys" / "tls-ca.pem").read_bytes())[0]).not_after_ms
    certificates.renew(directory, [], end - DAY_MS)
    assert certificates.show(directory).not_after_ms == end
    with pytest.raises(InvalidValueError) as caught:
        certificates.renew(directory, [], end + DAY_MS)
    assert caught.value.reason == "bad_validity"


def test_a_given_certificate_is_never_overwritten(directory: Path) -> None:
    """Somebody put it there for a reason; the refusal says who issued it and what to do."""
    put_given(directory)
    before = files(directory)
    assert certificates.show(directory).own is False
    with pytest.raises(ConfigurationError) as caught:
        certificates.renew(directory, [], NOW_MS)
    assert caught.value.reason == "given_certificate"
    assert "Example Corp CA" in caught.value.message
    assert str(directory / "keys" / "tls.key") in (caught.value.fix or "")
    assert files(directory) == before


@pytest.mark.parametrize("name", ["tls-ca.key", "tls.key"])
def test_a_certificate_is_not_renewed_with_a_key_of_another(name: str, directory: Path) -> None:
    """The custodian could not start with what would be written."""
    write_key(directory / "keys" / name, TlsKey.generate(), replace=True)
    before = files(directory)
    with pytest.raises(ConfigurationError) as caught:
        certificates.renew(directory, [], NOW_MS)
    assert (caught.value.reason, name in caught.value.message) == ("tls_key_mismatch", True)
    assert files(directory) == before


def test_a_host_that_is_none_changes_nothing(directory: Path) -> None:
    """Refused before the old certificate is touched."""
    before = files(directory)
    with pytest.raises(InvalidValueError):
        certificates.renew(directory, ["not a host"], NOW_MS)
    assert files(directory) == before


def test_a_server_takes_up_a_renewed_certificate_once(directory: Path) -> None:
    """It looks at the file; what did not change is not taken up again."""
    running = served(directory)
    first = running.tls
    assert (running.changed(), running.tls) == (False, first)
    certificates.renew(directory, [], NOW_MS + DAY_MS)
    assert running.changed()
    assert running.tls is not first
    assert running.tls.spki_sha256 == first.spki_sha256
    assert not running.changed()


@pytest.mark.parametrize("damage", ["garbage", "absent", "other"])
def test_a_server_goes_on_with_what_it_has_when_the_file_is_damaged(
    damage: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A half-written or foreign file ends no service; it is logged, and the next good one is taken."""
    running, path = served(directory), directory / "keys" / "tls.pem"
    first, good = running.tls, path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"no certificate")
    elif damage == "absent":
        path.unlink()
    else:
        custodian_keys.create(directory.parent / "other", ["localhost"], NOW_MS)
        path.write_bytes((directory.parent / "other" / "keys" / "tls.pem").read_bytes())
    assert not running.changed()
    assert running.tls is first
    assert [record.message for record in caplog.records] == ["tls_certificate_unusable"]
    running.warn(NOW_MS)  # of the one in use, not of the damaged file
    path.unlink(missing_ok=True)
    write_secret_file(path, Secret(good))
    certificates.renew(directory, [], NOW_MS + DAY_MS)
    assert running.changed()


def test_a_server_warns_from_30_days_before_the_end_and_once_a_day(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not earlier, not every few seconds, and not after it was renewed."""
    caplog.set_level(logging.WARNING)
    running, end = served(directory), NOW_MS + YEAR_MS
    running.warn(end - WARN_BEFORE_MS)
    assert caplog.records == []
    start = end - WARN_BEFORE_MS + 1
    for now_ms in (start, start + 5_000, start + DAY_MS - 1, start + DAY_MS, end + DAY_MS):
        running.warn(now_ms)
    assert [record.__dict__["days_left"] for record in caplog.records] == [29, 28, 0]
    assert {record.message for record in caplog.records} == {"tls_certificate_ends"}
    certificates.renew(directory, [], end)
    assert running.changed()
    running.warn(end + DAY_MS)
    assert len(caplog.records) == 3
