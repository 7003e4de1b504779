"""Real quotes and logs from public repositories, not in this one: `AIGOVTOOL_EVIDENCE_DIR` names their folder."""

import base64
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from aigovtool.attestation.certificates import read_certificates
from aigovtool.attestation.event_list import replay
from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import Evidence, Label
from aigovtool.attestation.tee.tpm.bundle import evidence_from_directory, evidence_from_protobuf
from aigovtool.attestation.tee.tpm.credential import ek_public
from aigovtool.attestation.tee.tpm.endorsement import key_of
from aigovtool.attestation.tee.tpm.event_log import parse_log
from aigovtool.attestation.tee.tpm.evidence import Bank
from aigovtool.attestation.tee.tpm.structures import parse_public, parse_quote, unwrapped_public
from aigovtool.attestation.tee.tpm.verify import TpmVerifier
from aigovtool.errors import EvidenceError

FOLDER = os.environ.get("AIGOVTOOL_EVIDENCE_DIR")
if FOLDER is None:
    pytest.skip(
        "AIGOVTOOL_EVIDENCE_DIR is not set: no real quote or event log of a TPM was verified", allow_module_level=True
    )
NOW_MS = 1_800_000_000_000
NONCE = bytes.fromhex("00112233445566778899aabbccddeeff" * 2)
AGILE_LOGS = {
    "goattest_crypto_agile_eventlog": (26, 0),
    "gotpm_eventlog_arch-linux-workstation.bin": (24, 0),
    "gotpm_eventlog_cos-101-amd-sev.bin": (48, 0),
    "gotpm_eventlog_eventlogwithsp800155.bin": (51, 0),
    "gotpm_eventlog_glinux-alex.bin": (27, 3),
    "gotpm_eventlog_rhel8-uefi.bin": (82, 0),
    "gotpm_eventlog_ubuntu-2104-no-secure-boot.bin": (105, 0),
    "gotpm_eventlog_ubuntu-2404-amd-sevsnp.bin": (116, 0),
}
OLD_LOGS = (
    "gotpm_eventlog_debian-10.bin",
    "goattest_ebs_event_missing_eventlog",
    "goattest_option_rom_eventlog",
    "goattest_short_no_action_eventlog",
)


def read(name: str) -> bytes:
    return (Path(FOLDER or "") / "tpm" / name).read_bytes()


def machine(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (Path(FOLDER or "") / "tpm" / name).iterdir()}


def examine_machine(evidence: Evidence, name: str) -> Examined:
    root = read_certificates(machine(name)["swtpm-localca-rootca-cert.pem"])
    return TpmVerifier(root, foreign_nonce=NONCE).examine(evidence, NOW_MS)


def google(bank: Bank | None = None) -> Evidence:
    intermediate = read("gotpm_ca_tpm_ek_intermediate_2.crt")
    return evidence_from_protobuf(read("gotpm_gce-cos-85-no-nonce.pb"), bank, [intermediate])


def examine_google(evidence: Evidence) -> Examined:
    return TpmVerifier(foreign_nonce=b"").examine(evidence, NOW_MS)


def failures(examined: Examined) -> dict[str, str]:
    failed: dict[str, str] = {step.name: step.reason for step in examined.steps if step.outcome is StepOutcome.FAILED}
    assert "internal" not in failed.values()
    return failed


def values(examined: Examined) -> dict[str, str]:
    return {one.name: one.digest for one in examined.genuine().measurements}


def facts(examined: Examined) -> dict[str, str]:
    return {one.name: one.value for one in examined.genuine().facts}


@pytest.mark.parametrize(
    ("name", "expected", "registers"),
    [
        ("swtpm_vm_direct", {"pcr4": "5446b4ae", "pcr9": "5c0e8488", "pcr11": "00" * 32}, "0 1 2 3 4 5 6 7 9"),
        (
            "swtpm_vm_uki",
            {
                "pcr4": "e0c665fe51be7510831f18a2cfbf4ffe9db7f4cd5e9f6c6b8e624698b2bf8935",
                "pcr9": "f49d673e7937c3779766bc13f27b0310626d3364e3f1ea5e5da8483eb0556816",
                "pcr11": "47059e44273d7171665b41ad4e4268c5a58fb7b4697491fb71387fc5dec55a68",
            },
            "0 1 2 3 4 5 6 7 9 11",
        ),
    ],
)
def test_measured_boot_of_a_machine(name: str, expected: dict[str, str], registers: str) -> None:
    """A quote of a machine that booted through OVMF: chain, signature, values and log agree; the key is unproven."""
    examined = examine_machine(evidence_from_directory(machine(name)), name)
    assert failures(examined) == {}
    for register, start in expected.items():
        assert values(examined)[register].startswith(start)
    verified = examined.genuine()
    assert [one.register for one in verified.events] == [f"pcr{index}" for index in registers.split()]
    assert facts(examined) | {"attestation_key": "unproven", "foreign_nonce": NONCE.hex()} == facts(examined)
    assert verified.report_data == NONCE + bytes(32)
    assert verified.chip_id is None


def test_the_kernels_digests_stand_in_the_events_of_a_unified_image() -> None:
    """Policies can ask for the digest of a boot loader or kernel: it is among the verified events."""
    verified = examine_machine(evidence_from_directory(machine("swtpm_vm_uki")), "swtpm_vm_uki").genuine()
    loaded = next(log.digests for log in verified.events if log.register == "pcr4")
    assert [one[:8] for one in loaded if one[:8] in {"e32d0754", "5f21ff2c"}] == ["e32d0754", "5f21ff2c"]
    sections = next(log.digests for log in verified.events if log.register == "pcr11")
    assert [one[:8] for one in sections if one[:8] in {"51349501", "5efadb2f"}] == ["51349501", "5efadb2f"]


@pytest.mark.parametrize("name", ["swtpm_vm_direct", "swtpm_vm_uki"])
def test_a_name_and_an_endorsement_key_are_computed_as_the_tpm_does(name: str) -> None:
    """The Name is that which the TPM wrote, and the public area of its endorsement key follows from the certificate."""
    files = machine(name)
    assert parse_public(unwrapped_public(files["ak.pub"])).name == files["ak.name"]
    certified = key_of(read_certificates(files["ekcert.der"])[0])
    assert ek_public(certified).encoded == unwrapped_public(files["ek.pub"])


def test_a_machine_is_refused_with_another_nonce_root_certificate_log_or_quote() -> None:
    """Each part belongs to this machine and this question."""
    files, other = machine("swtpm_vm_direct"), machine("swtpm_vm_uki")
    root = read_certificates(files["swtpm-localca-rootca-cert.pem"])
    made = evidence_from_directory(files)
    assert failures(TpmVerifier(root).examine(made, NOW_MS)) == {"freshness": "report_data_missing"}
    assert failures(TpmVerifier(root, foreign_nonce=b"").examine(made, NOW_MS)) == {"freshness": "extra_data"}
    assert failures(TpmVerifier(foreign_nonce=NONCE).examine(made, NOW_MS)) == {"chain": "chain_root"}
    assert failures(TpmVerifier(root, foreign_nonce=NONCE).examine(made, 1_700_000_000_000)) == {
        "validity": "not_yet_valid"
    }
    for swapped, expected in (
        ("ak.pub", {"signature": "signature"}),
        ("q.sig", {"signature": "signature"}),
        ("q.msg", {"signature": "signature", "pcrs": "pcr_digest"}),
        ("q.pcr", {"pcrs": "pcr_digest", "replay": "replay"}),
        ("binary_bios_measurements.bin", {"replay": "replay"}),
    ):
        mixed = evidence_from_directory({**files, swapped: other[swapped]})
        assert failures(examine_machine(mixed, "swtpm_vm_direct")) == expected


@pytest.mark.parametrize(("bank", "size"), [(None, 96), (Bank.SHA384, 96), (Bank.SHA256, 64)])
def test_a_virtual_tpm_of_google(bank: Bank | None, size: int) -> None:
    """A real certified key, up to Google's root that is built in; its quote is over an empty nonce."""
    examined = examine_google(google(bank))
    assert failures(examined) == {}
    assert {len(value) for value in values(examined).values()} == {size}
    assert len(values(examined)) == 24
    assert facts(examined) == {
        "attestation_key": "certified",
        "bank": "sha256" if size == 64 else "sha384",
        "clock_safe": "yes",
        "foreign_nonce": "empty",
        "tpm_manufacturer": "id:474F4F47",
        "tpm_model": "vTPM",
        "tpm_version": "id:20160511",
    }
    # In decimal digits that are read as hexadecimal it is a date and a time.
    assert [f"{one.version:08x}" for one in examined.genuine().tcb.components] == ["20160511", "00162800"]


def test_googles_quote_is_refused_where_it_is_not_expected() -> None:
    """Not with a nonce, not before its certificate, not without the intermediate, not up to another root."""
    made = google()
    assert failures(TpmVerifier(foreign_nonce=NONCE).examine(made, NOW_MS)) == {"freshness": "extra_data"}
    assert failures(TpmVerifier(foreign_nonce=b"").examine(made, 1_500_000_000_000)) == {"validity": "not_yet_valid"}
    assert failures(TpmVerifier(foreign_nonce=b"").examine(made, 2_600_000_000_000)) == {"validity": "expired"}
    bare = evidence_from_protobuf(read("gotpm_gce-cos-85-no-nonce.pb"))
    assert failures(examine_google(bare)) == {"chain": "chain_root"}
    second = evidence_from_protobuf(
        read("gotpm_gce-cos-85-no-nonce.pb"), None, [read("gotpm_ca_gcp_ek_ak_ca_intermediate_v3.crt")]
    )
    assert failures(examine_google(second)) == {"chain": "chain_issuer"}


def test_googles_roots_are_those_that_are_published() -> None:
    """The files of the package are the published certificates."""
    for published, name in (
        ("gotpm_ca_tpm_ek_root_1.cer", "google_tpm_ek_root_1.pem"),
        ("gotpm_ca_gcp_ek_ak_ca_root.crt", "google_ek_ak_ca_root.pem"),
    ):
        ours = Path(TpmVerifier.__module__.replace(".", "/")).parent / "trust" / name
        packaged = (Path(__file__).parents[4] / "src" / ours).read_bytes()
        assert read_certificates(packaged) == read_certificates(read(published))


@pytest.mark.parametrize("name", [*AGILE_LOGS])
def test_a_real_log_is_read_to_its_end(name: str) -> None:
    """Logs of PCs and cloud machines: all events, with data that hashes to their digests, and every bank replays."""
    events, locality = AGILE_LOGS[name]
    log = parse_log(read(name))
    assert (len(log.events), log.startup_locality) == (events, locality)
    for bank in log.banks - {"sha1"}:
        assert set(log.replay(bank)) == set(log.registers())


@pytest.mark.parametrize("name", OLD_LOGS)
def test_an_old_log_is_refused(name: str) -> None:
    """Logs with SHA-1 alone prove nothing today."""
    with pytest.raises(EvidenceError) as caught:
        parse_log(read(name))
    assert caught.value.reason == "log_format"


def test_the_log_of_a_trust_domain_replays_onto_its_quote() -> None:
    """Intel's CCEL is the same format: registers 1 to 4 are RTMR 0 to 3 of the quote, in SHA-384."""
    folder = Path(FOLDER or "") / "tdx"
    log = parse_log((folder / "gotdx_ccel_ccel_data.dat").read_bytes())
    # TD quote v4: the body of 584 bytes begins at 48; rt_mr0 is at 328 of it.
    quote = (folder / "gotdx_ccel_cos-113-tdx-quote.dat").read_bytes()
    signed = {n: quote[48 + 328 + 48 * n :][:48].hex() for n in range(4)}
    assert {register - 1: value for register, value in log.replay("sha384").items()} == {
        index: value for index, value in signed.items() if any(bytes.fromhex(value))
    }
    listed = log.event_list("sha384", (1, 2, 3, 4), lambda index: f"rtmr{index - 1}")
    for events in listed.registers:
        assert replay(events.digests, "sha384") == signed[int(events.register.removeprefix(Label("rtmr")))]


def test_a_windows_machine_with_sha1_keys_is_refused() -> None:
    """An attestation key that signs with SHA-1, and a quote over the SHA-1 bank, are not read at all."""
    dump: dict[str, Any] = json.loads(read("goattest_windows_gcp_shielded_vm.json"))
    with pytest.raises(EvidenceError, match="uses the hash 0x0004") as key:
        parse_public(base64.b64decode(dump["AK"]["Public"]))
    with pytest.raises(EvidenceError, match="uses the hash 0x0004") as quote:
        parse_quote(base64.b64decode(dump["Quote"]["Quote"]))
    assert (key.value.reason, quote.value.reason) == ("public_area", "attest_encoding")


def mutants(evidence: Evidence, step: int) -> list[Evidence]:
    dice, changed = random.Random(20261126), []
    parts = [evidence.data, *evidence.endorsements]
    for part, original in enumerate(parts):
        for index in range(0, len(original), step):
            data = bytearray(original)
            data[index] ^= dice.randrange(1, 256)
            new = [*parts[:part], bytes(data), *parts[part + 1 :]]
            changed.append(Evidence(tee=evidence.tee, data=new[0], endorsements=tuple(new[1:])))
    return changed


@pytest.mark.parametrize("name", ["swtpm_vm_direct", "swtpm_vm_uki", "google"])
def test_every_changed_byte_of_real_evidence_is_refused(name: str) -> None:
    """One changed byte anywhere is not genuine; AIGOVTOOL_EVIDENCE_ALL_BYTES takes all of them, not every eleventh."""
    step = 1 if os.environ.get("AIGOVTOOL_EVIDENCE_ALL_BYTES") else 11
    made = google() if name == "google" else evidence_from_directory(machine(name))
    for changed in mutants(made, step):
        assert failures(examine_google(changed) if name == "google" else examine_machine(changed, name))


@pytest.mark.parametrize("name", ["gotpm_eventlog_glinux-alex.bin", "goattest_crypto_agile_eventlog"])
def test_changed_bytes_of_a_real_log_are_refused_or_replay_to_something_else(name: str) -> None:
    """A changed byte is refused, changes a PCR, or is data that no digest covers; no other error is raised."""
    data, dice = read(name), random.Random(20261126)
    for index in range(0, len(data), 13):
        changed = bytearray(data)
        changed[index] ^= dice.randrange(1, 256)
        try:
            parse_log(bytes(changed))
        except EvidenceError as error:
            assert (error.reason or "").startswith("log_")
