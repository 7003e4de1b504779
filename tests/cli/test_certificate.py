"""The verb that shows and renews a custodian's TLS certificate, and who else speaks of its end."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tests.cli.conftest import Place

from aigovtool.cli.custodian.certificate import standing, warning
from aigovtool.crypto.keyfile import read_tls_key, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import from_pem, issue_server_certificate, new_authority, to_pem
from aigovtool.custodian.app import initialise
from aigovtool.custodian.certificate import ServerCertificate

DAY_MS = 86_400_000
Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory of a custodian that does not serve."""
    made = tmp_path / "custodian"
    initialise(made, url="https://localhost:1", hosts=["localhost"], operator="alice", allow_simulated=False)
    return made


def put(home: Path, *, days: float, given: bool = False) -> None:
    """Put a certificate in place that ends in so many days."""
    keys, now_ms = home / "keys", time.time_ns() // 1_000_000
    span = {"not_before_ms": now_ms - 400 * DAY_MS, "not_after_ms": now_ms + int(days * DAY_MS)}
    authority_key, authority = read_tls_key(keys / "tls-ca.key"), from_pem((keys / "tls-ca.pem").read_bytes())[0]
    if given:
        authority_key = TlsKey.generate()
        authority = new_authority(authority_key, "Corp CA", **{**span, "not_after_ms": now_ms + 900 * DAY_MS})
    made = issue_server_certificate(authority_key, authority, read_tls_key(keys / "tls.key"), ["localhost"], **span)
    write_secret_file(keys / "tls.pem", Secret(to_pem(made)), replace=True)


def test_the_certificate_is_shown_with_names_and_end(home: Path, run: Run) -> None:
    """Subject, issuer, hosts, until when; the same for programs; and nothing is changed."""
    before = (home / "keys" / "tls.pem").read_bytes()
    shown = run("custodian", "certificate", str(home))
    assert shown.exit_code == 0, shown.output
    for words in ("CN=aigovtool custodian", "localhost", "364 d"):
        assert words in shown.stdout
    assert shown.stderr == ""
    document = json.loads(run("custodian", "certificate", str(home), "--json").stdout)
    assert (document["own"], document["ends_soon"], document["kept"]) == (True, False, None)
    assert "TLS certificate until" in run("custodian", "show", str(home)).stdout
    assert (home / "keys" / "tls.pem").read_bytes() == before


def test_a_certificate_that_ends_soon_is_said_and_renewed(home: Path, run: Run) -> None:
    """The warning is the command that mends it; afterwards there is none."""
    put(home, days=29)
    shown = run("custodian", "certificate", str(home))
    command = f"aigovtool custodian certificate {home} --renew"
    assert command in shown.stderr
    renewed = run(*command.split()[1:], "--host", "standby.example", "--json")
    assert renewed.exit_code == 0, renewed.output
    document = json.loads(renewed.stdout)
    assert (document["ends_soon"], set(document["hosts"])) == (False, {"localhost", "standby.example"})
    assert Path(document["kept"]).exists()
    again = run("custodian", "certificate", str(home), "--renew")
    assert "serves shows it to new connections within seconds" in again.stdout
    assert again.stderr == ""


def test_a_given_certificate_is_refused_with_advice(home: Path, run: Run) -> None:
    """Its issuer is named, also in the warning: --renew would not be the remedy."""
    put(home, days=5, given=True)
    shown = run("custodian", "certificate", str(home))
    assert "not this custodian's own authority" in shown.stdout
    assert "Corp CA" in shown.stderr
    assert "--renew" not in shown.stderr
    refused = run("custodian", "certificate", str(home), "--renew")
    assert (refused.exit_code, "given_certificate" in refused.stderr, "Corp CA" in refused.stderr) == (2, True, True)


def test_what_cannot_be_renewed_is_said(home: Path, run: Run, tmp_path: Path) -> None:
    """A party's file, another directory, and an option without its meaning."""
    for arguments, words in (
        ([str(home / "operator.json"), "--renew"], "where the custodian runs"),
        ([str(tmp_path)], "no_custodian"),
        ([str(home), "--host", "x"], "--host is for --renew"),
    ):
        refused = run("custodian", "certificate", *arguments)
        assert (refused.exit_code, words in refused.stderr) == (2, True), refused.output


def test_a_party_sees_what_the_custodian_proves(place: Place) -> None:
    """An operator elsewhere learns when it ends, without the custodian's directory."""
    document = place.document("custodian", "certificate", str(place.operator))
    there = place.document("custodian", "certificate", place.file("custodian"))
    assert (document["sha256"], document["own"], document["file"]) == (there["sha256"], None, None)


def certificate(until_ms: int, *, own: bool) -> ServerCertificate:
    return ServerCertificate(
        file="", subject="", issuer="CN=x", hosts=[], sha256="", not_before_ms=0, not_after_ms=until_ms, own=own
    )


def test_the_end_of_a_certificate_in_words() -> None:
    """Nothing before 30 days, how long is left after that, and that it is over when it is."""
    now_ms = 1_800_000_000_000
    assert warning(certificate(now_ms + 30 * DAY_MS, own=True), now_ms, Path("c")) is None
    soon = warning(certificate(now_ms + 3 * DAY_MS, own=True), now_ms, Path("c")) or ""
    assert "ends in 3 d" in soon
    assert "aigovtool custodian certificate c --renew" in soon
    over = warning(certificate(now_ms - 1, own=False), now_ms, Path("c")) or ""
    assert "nobody can connect" in over
    assert "CN=x" in over
    assert "it has ended" in standing(now_ms, now_ms)
    assert "3 d left" in standing(now_ms + 3 * DAY_MS, now_ms)
