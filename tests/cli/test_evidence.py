"""`aigovtool evidence verify`: genuine and acceptable are two answers, and everything that was checked is listed."""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation.tee.snp import maker as snp
from tests.observations import Observed

from aigovtool.attestation.certificates import read_certificates
from aigovtool.attestation.model import Evidence, MeasurementHex, TeeType
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.cli.app import app
from aigovtool.cli.evidence.verb import moment_ms
from aigovtool.codec import encode
from aigovtool.errors import InvalidValueError
from aigovtool.testing.simulated_tee.attester import SimulatedPlatform
from aigovtool.testing.simulated_tee.verify import simulated_policy

NOW = "2026-11-26T00:00:00Z"
MEASUREMENT = MeasurementHex("5a" * 48)
REPORT_DATA = bytes(range(64))
FOLDER = os.environ.get("AIGOVTOOL_EVIDENCE_DIR")
VECTORS = Path(FOLDER or "nowhere")
needs_vectors = pytest.mark.skipif(
    FOLDER is None, reason="AIGOVTOOL_EVIDENCE_DIR is not set: no public evidence was verified by the command line"
)


@dataclass(frozen=True)
class Site:
    """A folder, and the command line."""

    folder: Path

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def run(self, *arguments: object) -> Result:
        words = ["evidence", "verify", *map(str, arguments)]
        return CliRunner().invoke(app, words, env={"NO_COLOR": "1"}, prog_name="aigovtool")

    def verdict(self, *arguments: object, code: int = 0) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def simulated(self, evidence: Evidence | None = None) -> str:
        made = evidence or SimulatedPlatform(MEASUREMENT).report(REPORT_DATA)
        return self.file("evidence.json", encode(made))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def changed_at_the_end(data: bytes) -> bytes:
    """Return data with another last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


def policy_file(site: Site, policy: AppraisalPolicy) -> str:
    return site.file("policy.json", encode(policy))


def test_genuine_evidence_says_what_it_says(site: Site) -> None:
    """Every step with its source, and all that a policy could judge; a policy is not needed for that."""
    found = site.verdict(site.simulated(), "--at", NOW)
    assert (found["tee"], found["genuine"], found["reason"]) == ("simulated", True, None)
    assert [step["outcome"] for step in found["steps"]] == ["passed"] * 8
    assert [step["number"] for step in found["steps"]] == list(range(1, 9))
    assert all(step["source"] and step["title"] for step in found["steps"])
    assert found["says"]["measurements"] == {"source": MEASUREMENT}
    assert found["says"]["report_data"] == REPORT_DATA.hex()
    assert found["acceptable"] is None
    shown = site.run(site.simulated(), "--at", NOW)
    assert "SIMULATED TEE" in shown.stderr
    assert MEASUREMENT in shown.stdout
    assert "attestation spec, 6.3" in shown.stdout


def test_evidence_that_is_not_genuine_ends_with_5_and_lists_every_failure(site: Site) -> None:
    """Programs decide by the exit code; people see what failed and what could not be asked any more."""
    genuine = SimulatedPlatform(MEASUREMENT).report(REPORT_DATA)
    changed = msgspec.structs.replace(
        genuine, data=changed_at_the_end(genuine.data), endorsements=genuine.endorsements[:1] * 2
    )
    found = site.verdict(site.simulated(changed), "--at", NOW, code=5)
    assert (found["genuine"], found["reason"], found["says"]) == (False, "chain", None)
    outcomes = {step["name"]: step["outcome"] for step in found["steps"]}
    assert (outcomes["chain"], outcomes["signature"], outcomes["contents"]) == ("failed", "not_reached", "not_reached")
    shown = site.run(site.simulated(changed), "--at", NOW)
    assert shown.exit_code == 5
    assert "NOT GENUINE: chain" in shown.stdout


def test_a_policy_answers_the_second_question(site: Site) -> None:
    """Acceptable or not, with each check, and as a claims-set that other programs read."""
    accepted = policy_file(site, simulated_policy(MEASUREMENT))
    found = site.verdict(site.simulated(), "--at", NOW, "--policy", accepted)
    assert (found["acceptable"], found["refused"], found["policy_version"]) == (True, None, 1)
    assert {check["outcome"] for check in found["checks"]} == {"passed", "unchecked"}
    result = found["result"]
    assert result["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
    (appraisal,) = result["submods"].values()
    assert appraisal["ear_status"] == "warning"
    assert appraisal["ear_appraisal_policy_ids"] == [f"{found['policy']}#1"]
    assert appraisal["ear_trustworthiness_vector"]["executables"] == 3
    assert appraisal["ear_verifier_claims"]["simulated"]["outcome"] == "passed"
    other = policy_file(site, simulated_policy(MeasurementHex("5b" * 48)))
    found = site.verdict(site.simulated(), "--at", NOW, "--policy", other, code=5)
    assert (found["genuine"], found["acceptable"], found["refused"]) == (True, False, "measurements")
    assert found["result"]["submods"]["simulated"]["ear_status"] == "contraindicated"
    assert "NOT ACCEPTABLE: measurements" in site.run(site.simulated(), "--at", NOW, "--policy", other).stdout


@pytest.mark.fault(25)
def test_report_data_is_compared_whole(site: Site, observed: Observed) -> None:
    """Zeros at the end may be left out, nothing else; evidence for another conversation is not what was asked for."""
    padded = SimulatedPlatform(MEASUREMENT).report(b"hello" + bytes(59))
    assert site.verdict(site.simulated(padded), "--at", NOW, "--report-data", b"hello".hex())["genuine"]
    for other in (b"hell", b"hello\1", REPORT_DATA):
        found = site.verdict(site.simulated(padded), "--at", NOW, "--report-data", other.hex(), code=5)
        assert (found["genuine"], found["reason"], found["says"]) == (False, "report_data", None)
        observed.refusal({"code": "evidence_not_genuine", "reason": found["reason"]})


def test_evidence_is_judged_as_of_a_time(site: Site) -> None:
    """The same evidence before its certificates began, and after they ended."""
    for moment in ("2019-01-01", "2099-01-01T00:00:00+00:00"):
        assert site.verdict(site.simulated(), "--at", moment, code=5)["reason"] == "validity"
    assert moment_ms("1780315200") == moment_ms("1780315200000") == moment_ms("2026-06-01T12:00:00Z")
    assert moment_ms("2026-06-01") == moment_ms("2026-06-01T02:00+02:00")
    for bad in ("yesterday", "2026-06-01T12:00", "", "-1", "2026-13-01"):
        with pytest.raises(InvalidValueError) as caught:
            moment_ms(bad)
        assert ("does not say its zone" in caught.value.message) is (bad == "2026-06-01T12:00")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("nowhere.bin", "--tee", "tdx"), 2, "unreadable_file"),
        (("raw.bin",), 2, "no_tee"),
        (("evidence.json", "--tee", "tdx"), 5, "tee_mismatch"),
        (("other.json", "--tee", "tdx"), 5, "evidence_encoding"),
        (("raw.bin", "--tee", "tdx", "--report-data", "xyz"), 3, "bad_hex"),
        (("evidence.json", "--report-data", ""), 3, "bad_report_data"),
        (("evidence.json", "--report-data", "00" * 32), 3, "bad_report_data"),
        (("evidence.json", "--report-data", "01" * 65), 3, "bad_report_data"),
        (("evidence.json", "--nonce", "xyz"), 3, "bad_hex"),
        (("raw.bin", "--tee", "sgx", "--event-log", "raw.bin"), 2, "no_event_log"),
        (("raw.bin", "--tee", "sev-snp", "--root", "raw.bin"), 3, "bad_root"),
    ],
)
def test_what_cannot_be_judged_says_why(site: Site, arguments: tuple[str, ...], code: int, reason: str) -> None:
    """A missing file, no name of a TEE, another form: a typed error, and never a traceback."""
    site.simulated()
    site.file("raw.bin", b"x" * 100)
    site.file("other.json", b'{"some": "thing"}')
    words = [str(site.folder / word) if "." in word else word for word in arguments]
    result = site.run(*words, "--json")
    assert result.exit_code == code, result.output
    assert json.loads(result.stdout)["error"]["reason"] == reason


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--policy-signer", "00" * 32, "without --policy"),
        ("--policy-seen", "seen.json", "without --policy"),
        ("--nonce", "00", "evidence of simulated"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(site: Site, option: str, value: str, word: str) -> None:
    """Whoever gives it believes that it is looked at."""
    result = site.run(site.simulated(), "--at", NOW, option, value)
    assert (result.exit_code, word in result.stderr) == (2, True), result.stderr
    assert "see `aigovtool evidence verify --help`" in result.stderr
    assert not Path("seen.json").exists()


def test_a_failed_verification_says_what_can_be_done(site: Site) -> None:
    """A certificate that is not there can be fetched; evidence that was changed has no way on."""
    report = site.file("report.bin", snp.report())
    found = site.verdict(report, "--tee", "sev-snp", "--at", str(snp.NOW_MS), code=5)
    assert found["reason"] == "leaf_missing"
    shown = site.run(report, "--tee", "sev-snp", "--at", str(snp.NOW_MS)).stdout
    for words in (found["fix"], shown):
        assert "aigovtool endorsements fetch" in words
        assert "--endorsements" in words
    genuine = SimulatedPlatform(MEASUREMENT).report(REPORT_DATA)
    changed = msgspec.structs.replace(genuine, data=changed_at_the_end(genuine.data))
    assert site.verdict(site.simulated(changed), "--at", NOW, code=5)["fix"] is None


def test_every_block_of_a_pem_file_is_read(site: Site) -> None:
    """Attack: two lists in one file, of which the second revokes; a leaf behind a list. What is neither is refused."""
    known = snp.authorities()
    report, root = (
        site.file("report.bin", snp.report()),
        site.file("roots.pem", snp.pem(known.ark, known.ask, known.asvk)),
    )
    judged = (report, "--tee", "sev-snp", "--root", root, "--at", str(snp.NOW_MS))
    leaf, harmless, revoking = snp.usual_leaf(), snp.revocation_list(), snp.revocation_list(11)
    for parts, reason in (((harmless, leaf), None), ((leaf, harmless, revoking), "revoked")):
        given = site.file("all.pem", b"Subject: for people\n" + snp.pem(*parts))
        found = site.verdict(*judged, "--endorsements", given, code=0 if reason is None else 5)
        assert (found["genuine"], found["reason"]) == (reason is None, reason)
    # TEST-ONLY, and no key at all: other kinds of PEM are refused.
    for odd in (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"-----BEGIN X509 CRL-----\nAAAA\n"):
        result = site.run(*judged, "--endorsements", site.file("odd.pem", snp.pem(leaf) + odd), "--json")
        assert (result.exit_code, json.loads(result.stdout)["error"]["reason"]) == (5, "certificate_encoding")


# --- Public evidence ---------------------------------------------------------------------------------------------


@needs_vectors
def test_a_report_with_a_vcek_in_any_form_is_verified(site: Site) -> None:
    """PEM, DER, a directory, and the report in base64: one verdict."""
    milan = VECTORS / "snp"
    report = milan / "ms_milan_attestation_report.bin"
    (leaf,) = read_certificates((milan / "ms_milan_vcek.pem").read_bytes())
    folder = site.folder / "endorsements"
    folder.mkdir()
    (folder / "vcek.der").write_bytes(leaf.public_bytes(Encoding.DER))
    text = site.file("report.b64", base64.encodebytes(report.read_bytes()))
    at = ("--at", "2026-06-01")
    verdicts = [
        site.verdict(report, "--tee", "sev-snp", "--endorsements", milan / "ms_milan_vcek.pem", *at),
        site.verdict(report, "--tee", "sev-snp", "--endorsements", folder, *at),
        site.verdict(text, "--tee", "sev-snp", "--endorsements", folder / "vcek.der", *at),
        site.verdict(
            site.file(
                "own.json",
                encode(
                    Evidence(
                        tee=TeeType.SEV_SNP,
                        data=report.read_bytes(),
                        endorsements=(leaf.public_bytes(Encoding.DER),),
                    )
                ),
            ),
            *at,
        ),
    ]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert verdicts[0]["genuine"]
    assert verdicts[0]["says"]["measurements"]["launch"].startswith("5feee30d6d7e1a29")


@needs_vectors
def test_a_document_in_base64_is_verified(site: Site) -> None:
    """As the vendor's tools print it; in debug mode it is genuine, and says so."""
    nitro = VECTORS / "nitro"
    found = site.verdict(nitro / "blocky_nitro_attestation.b64", "--tee", "nitro", "--at", "2024-09-07T14:37:39Z")
    assert found["says"]["measurements"]["pcr0"].startswith("e72a46ca80a260fb")
    debug = nitro / "blocky_nitro_attestation_debug.b64"
    assert "DEBUG MODE" in site.run(debug, "--tee", "nitro", "--at", "2024-09-07T14:38:06Z").stdout


@needs_vectors
def test_a_quote_of_a_tpm_is_read_from_the_files_of_its_tools(site: Site) -> None:
    """A directory of tpm2-tools, with the root of whoever made that TPM, and the nonce that was asked with."""
    folder = VECTORS / "tpm" / "swtpm_vm_uki"
    root = folder / "swtpm-localca-rootca-cert.pem"
    nonce = "00112233445566778899aabbccddeeff" * 2
    found = site.verdict(folder, "--root", root, "--nonce", nonce, "--at", NOW)
    assert found["says"]["measurements"]["pcr11"].startswith("47059e44273d7171")
    assert found["says"]["memory_encryption"] is False
    shown = site.run(folder, "--root", root, "--nonce", nonce, "--at", NOW)
    assert "boot integrity alone" in shown.stdout
    assert "Not the vendor's roots" in shown.stderr
    assert site.verdict(folder, "--nonce", nonce, "--at", NOW, code=5)["genuine"] is False


@needs_vectors
def test_what_is_out_of_time_is_named_with_its_day(site: Site) -> None:
    """Whoever has old evidence sees which part of it ended, and when; without collateral that is said."""
    quote, collateral = "dcap_qvl_tdx_quote_v4.bin", "dcap_qvl_tdx_quote_v4.collateral.json"
    bare = site.verdict(VECTORS / "tdx" / quote, "--tee", "tdx", code=5)
    assert (bare["reason"], bare["steps"][0]["detail"]) == (
        "endorsement_count",
        "no collateral came along with the quote",
    )
    assert "aigovtool endorsements fetch" in bare["fix"]
    given = (VECTORS / "tdx" / quote, "--tee", "tdx", "--endorsements", VECTORS / "tdx" / collateral)
    for moment, reason, words in (
        ("2099-01-01", "collateral_expired", "ended on 20"),
        ("2020-01-01", "not_yet_valid", "begins on 20"),
    ):
        found = site.verdict(*given, "--at", moment, code=5)
        (failed,) = [step for step in found["steps"] if step["reason"] == reason]
        assert words in failed["detail"]
    report = VECTORS / "snp" / "ms_milan_attestation_report.bin"
    leaf = ("--endorsements", VECTORS / "snp" / "ms_milan_vcek.pem", "--at", "2099-01-01")
    found = site.verdict(report, "--tee", "sev-snp", *leaf, code=5)
    assert "expired on 20" in next(step["detail"] for step in found["steps"] if step["reason"] == "expired")


@needs_vectors
def test_a_chain_of_a_tpm_without_an_end_says_where_to_bring_it(site: Site) -> None:
    """Its maker's root, and what is between, are for whoever runs the custodian."""
    folder = VECTORS / "tpm" / "swtpm_vm_uki"
    found = site.verdict(folder, "--nonce", "00112233445566778899aabbccddeeff" * 2, "--at", NOW, code=5)
    assert found["reason"] == "chain_root"
    assert all(word in found["fix"] for word in ("--tpm-issuers", "--root", "tpm-roots/"))
