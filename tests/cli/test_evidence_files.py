"""`aigovtool evidence verify`: every file is read by itself, is used, and is named where it is at fault."""

import json
import time
from base64 import encodebytes
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.attestation.authority import NOW_MS
from tests.attestation.tee.snp import maker as snp
from tests.attestation.tee.tpm.maker import der, issuing, root
from tests.attestation.tee.tpm.test_bundle import BOTH, LOG, NONCE, directory, field, message, pem

from aigovtool.cli.app import app
from aigovtool.cli.evidence.files import read_roots
from aigovtool.errors import EvidenceError

AT = ("--at", str(NOW_MS))


def run(*arguments: object) -> Result:
    words = ["evidence", "verify", *map(str, arguments)]
    return CliRunner().invoke(app, words, env={"NO_COLOR": "1"}, prog_name="aigovtool")


def verdict(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a TPM's verification is given: a quote's directory without issuer and log, and these two beside it."""
    quote = tmp_path / "quote"
    quote.mkdir()
    for name, content in directory(log=None).items():
        if name != "issuercert.pem":
            (quote / name).write_bytes(content)
    (tmp_path / "root.der").write_bytes(der(root()))
    (tmp_path / "issuer.der").write_bytes(der(issuing()))
    (tmp_path / "log.bin").write_bytes(LOG)
    return tmp_path


def judged(folder: Path, *arguments: object) -> tuple[object, ...]:
    return (*arguments, "--tee", "tpm", "--root", folder / "root.der", "--nonce", NONCE.hex(), *AT)


def test_issuers_and_a_log_given_beside_a_directory_are_used(folder: Path) -> None:
    """Without them the chain has no end, and nothing is known to have been measured."""
    assert verdict(*judged(folder, folder / "quote"))["reason"] == "chain_root"
    more = ("--endorsements", folder / "issuer.der", "--event-log", folder / "log.bin")
    found = verdict(*judged(folder, folder / "quote", *more))
    assert (found["genuine"], sorted(found["says"]["events"])) == (True, ["pcr0", "pcr4"])


def test_issuers_and_a_log_given_beside_a_message_are_used(folder: Path) -> None:
    """A log in the message is replaced; a certificate that is there already is not added twice."""
    (folder / "quote.pb").write_bytes(message(*BOTH, log=b"\0", more=field(7, der(issuing()))))
    more = ("--endorsements", folder / "issuer.der", "--event-log", folder / "log.bin")
    found = verdict(*judged(folder, folder / "quote.pb", *more))
    assert (found["genuine"], sorted(found["says"]["events"])) == (True, ["pcr0", "pcr4"])


def test_each_issuer_is_a_file_of_its_own(folder: Path) -> None:
    """In DER two files joined are no certificate; in their order they are a chain."""
    (folder / "quote.pb").write_bytes(message(*BOTH))
    chain = ("--endorsements", folder / "issuer.der", "--endorsements", folder / "root.der")
    assert verdict(*judged(folder, folder / "quote.pb", *chain))["genuine"]
    (folder / "issuer.pem").write_bytes(pem(der(issuing())))
    mixed = ("--endorsements", folder / "issuer.pem", "--endorsements", folder / "root.der")
    assert verdict(*judged(folder, folder / "quote.pb", *mixed))["genuine"]


@pytest.mark.parametrize("tee", ["tpm", "sev-snp", "tdx"])
def test_endorsements_that_are_none_are_named(folder: Path, tee: str) -> None:
    """Whoever gives ten files is told which one is wrong."""
    (folder / "report.bin").write_bytes(snp.report())
    (folder / "odd.pem").write_bytes(b'{"a": 1}' if tee == "tdx" else b"x" * 100)
    file = folder / ("quote" if tee == "tpm" else "report.bin")
    result = run(file, "--tee", tee, "--endorsements", folder / "issuer.der", "--endorsements", folder / "odd.pem", *AT)
    assert result.exit_code == 5
    named = "issuer.der" if tee == "sev-snp" else "odd.pem"  # AMD made no TPM's issuer, either
    assert f"error: {folder / named}: " in result.stderr


@pytest.mark.parametrize("option", ["--root", "--event-log"])
def test_roots_and_logs_that_are_none_are_named(folder: Path, option: str) -> None:
    """As endorsements are."""
    (folder / "odd.bin").write_bytes(b"x" * 100)
    result = run(*judged(folder, folder / "quote"), option, folder / "odd.bin")
    assert result.exit_code == (3 if option == "--root" else 5)
    assert str(folder / "odd.bin") in result.stderr


def test_evidence_that_cannot_be_read_is_named(folder: Path) -> None:
    """A bundle without a quote, and JSON that is something else."""
    (folder / "odd.json").write_bytes(b'{"some": "thing"}')
    (folder / "quote" / "q.msg").unlink()
    for file in ("odd.json", "quote"):
        assert f"error: {folder / file}: " in run(folder / file, "--tee", "tpm", *AT).stderr


def test_a_certificate_of_no_known_version_is_refused_as_any_other(tmp_path: Path) -> None:
    """Which is no other error than that of a file that cannot be parsed."""
    version = b"\xa0\x03\x02\x01"
    body = encodebytes(der(root()).replace(version + b"\2", version + b"\1", 1))
    (tmp_path / "root.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")
    with pytest.raises(EvidenceError) as caught:
        read_roots([tmp_path / "root.pem"])
    assert caught.value.reason == "certificate_encoding"


@pytest.mark.parametrize("piece", [b"-----BEGIN A-----", b"-----BEGIN A-----\n-----END B-----\n", b"-----BEGIN "])
def test_a_file_of_blocks_that_never_end_is_refused_at_once(tmp_path: Path, piece: bytes) -> None:
    """A file is read once, and not once for each of its blocks, of which a MiB holds sixty thousand."""
    (tmp_path / "root.pem").write_bytes(piece * ((1 << 20) // len(piece)))
    since = time.process_time()
    with pytest.raises(EvidenceError) as caught:
        read_roots([tmp_path / "root.pem"])
    assert caught.value.reason == "certificate_encoding"
    assert time.process_time() - since < 5
