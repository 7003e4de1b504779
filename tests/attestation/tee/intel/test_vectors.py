"""Real quotes from public repositories; they are not in this repository (`AIGOVTOOL_EVIDENCE_DIR` names them)."""

import json
import os
import random
import struct
from functools import cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote as percent

import dcap_qvl  # type: ignore[import-untyped]
import pytest

from aigovtool.attestation.event_list import EventList
from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import Evidence, Label, MeasuredEvents, MeasurementHex, TeeType
from aigovtool.attestation.tee.intel.answers import issued as judged
from aigovtool.attestation.tee.intel.authentic import pinned_root, trusted
from aigovtool.attestation.tee.intel.collateral import PcsAnswer, collateral_from_json
from aigovtool.attestation.tee.intel.verify import SgxVerifier, TdxVerifier
from aigovtool.attestation.tee.intel.wanted import merged, wanted
from aigovtool.codec import encode

FOLDER = os.environ.get("AIGOVTOOL_EVIDENCE_DIR")
pytestmark = pytest.mark.skipif(
    FOLDER is None,
    reason="AIGOVTOOL_EVIDENCE_DIR is not set: no real Intel SGX or TDX quote was verified",
)

SGX3 = "sgx/dcap_qvl_sgx_quote_v3.bin"
TDX4 = "tdx/dcap_qvl_tdx_quote_v4.bin"
OUTDATED = "tdx/dcap_qvl_tdx_quote_v5_outdated.bin"
EARLY = "tdx/gotdx_tdx_prod_quote_SPR_E4.dat"
LOGGED = "tdx/gotdx_ccel_cos-113-tdx-quote.dat"
TIMES = {SGX3: 1751624924, TDX4: 1751624191, OUTDATED: 1771977600, EARLY: 1688173200, LOGGED: 1751624191}


@cache
def file(name: str) -> bytes:
    return (Path(FOLDER or "") / name).read_bytes()


@cache
def collateral(name: str) -> bytes:
    return collateral_from_json(file(name.rsplit(".", 1)[0] + ".collateral.json"))


def evidence(name: str, data: bytes | None = None, *endorsements: bytes) -> Evidence:
    tee = TeeType.SGX if name.startswith("sgx") else TeeType.TDX
    return Evidence(
        tee=tee, data=file(name) if data is None else data, endorsements=endorsements or (collateral(name),)
    )


def examine(given: Evidence, now: int) -> Examined:
    verifier = SgxVerifier() if given.tee is TeeType.SGX else TdxVerifier()
    return verifier.examine(given, now * 1000)


def failures(found: Examined) -> dict[str, str]:
    assert found.verified is None
    return {str(step.name): step.reason for step in found.steps if step.outcome is StepOutcome.FAILED}


def test_a_real_sgx_quote_is_genuine() -> None:
    """Measurements, report data, platform and status are those that were published with it."""
    found = examine(evidence(SGX3), TIMES[SGX3]).genuine()
    assert {str(one.name): one.digest for one in found.measurements} == {
        "mr_enclave": "33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb",
        "mr_signer": "815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6",
    }
    assert found.report_data == b"Hello, world!".ljust(64, b"\0")
    said = {str(fact.name): fact.value for fact in found.facts}
    assert (said["fmspc"], said["ca"], said["sgx_type"]) == ("00a067110000", "processor", "0")
    assert (said["tcb_status"], said["qe_status"]) == ("ConfigurationAndSWHardeningNeeded", "UpToDate")
    assert found.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert {str(one.name): one.version for one in found.tcb.components}["tcb_evaluation_data_number"] == 17
    assert found.endorsed_until_ms == 1752919278_000


def test_a_real_tdx_quote_is_genuine() -> None:
    """A TD of version 4 on a platform that is up to date, with its registers and attributes."""
    found = examine(evidence(TDX4), TIMES[TDX4]).genuine()
    measured = {str(one.name): one.digest for one in found.measurements}
    assert (
        measured["mr_td"]
        == "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7"
    )
    assert [measured[f"rtmr{index}"][:8] for index in range(4)] == ["44c0197b", "0084452c", "d833feef", "00000000"]
    assert (found.report_data.hex()[:8], found.report_data.hex()[-4:]) == ("9a9d48e7", "3f20")
    said = {str(fact.name): fact.value for fact in found.facts}
    assert (said["td_attributes"], said["td_flags"]) == ("0000001000000000", "sept_ve_disable")
    assert (said["fmspc"], said["ca"]) == ("b0c06f000000", "platform")
    assert (said["tcb_status"], said["qe_status"], found.advisories) == ("UpToDate", "UpToDate", ())
    assert {said[flag] for flag in ("dynamic_platform", "cached_keys", "smt_enabled")} == {"true"}
    # The PCK revocation list runs out first.
    assert found.endorsed_until_ms == 1752919235_000 - 1


@pytest.mark.parametrize(
    ("name", "since", "until"),
    [(SGX3, 1750330571, 1752919278), (TDX4, 1750329147, 1752919235 - 1)],
    ids=["sgx", "tdx"],
)
def test_real_quotes_are_genuine_in_the_window_of_their_collateral_only(name: str, since: int, until: int) -> None:
    """From the last issue date to the first end, and neither a second before nor after, nor a day."""
    for now in (since, until):
        assert examine(evidence(name), now).verified is not None
    for now in (since - 1, since - 86_400):
        assert failures(examine(evidence(name), now))["time"] == "not_yet_valid"
    for now in (until + 1, until + 86_400):
        assert failures(examine(evidence(name), now))["time"] == "collateral_expired"


@pytest.mark.parametrize("name", [SGX3, TDX4], ids=["sgx", "tdx"])
def test_the_end_is_the_one_that_the_library_finds(name: str) -> None:
    """Two computations of the same period: ours of milliseconds, the library's of seconds."""
    parts = dcap_qvl.QuoteCollateralV3.from_json(collateral(name).decode())
    policy = dcap_qvl.QuotePolicy.claims_only(TIMES[name])
    claims = dcap_qvl.QuoteVerifier().verify_with_policy(file(name), parts, TIMES[name], policy)
    found = examine(evidence(name), TIMES[name]).genuine()
    assert -(-found.endorsed_until_ms // 1000) == json.loads(claims.to_json())["earliest_expiration_date"]


def test_a_platform_that_is_too_old_is_refused() -> None:
    """Chain and signatures of the real quote of version 5 hold; no TCB level of today fits it."""
    assert failures(examine(evidence(OUTDATED), TIMES[OUTDATED])) == {"platform": "tcb_level"}


def test_a_td_without_sept_ve_disable_on_an_old_platform_is_refused_for_both() -> None:
    """An early quote: attributes and TCB are refused, each by its step; two months later it is too late, too."""
    quoted = file(EARLY)
    text = b"\nextra bytes(only for testing purpose)\n"
    why = {"attributes": "td_sept_ve", "platform": "tcb_level"}
    assert failures(examine(evidence(EARLY), TIMES[EARLY])) == {**why, "trailing": "quote_trailing"}
    cut = evidence(EARLY, quoted.removesuffix(text))
    assert failures(examine(cut, TIMES[EARLY])) == why
    assert failures(examine(cut, 1693526400))["time"] == "collateral_expired"


@pytest.mark.parametrize(("name", "other"), [(TDX4, OUTDATED), (OUTDATED, TDX4), (TDX4, SGX3), (SGX3, TDX4)])
def test_a_real_quote_with_the_collateral_of_another_is_refused(name: str, other: str) -> None:
    """Genuine collateral of another platform, or of another time, does not help a genuine quote."""
    given = evidence(name, None, collateral(other))
    for now in (TIMES[name], TIMES[other]):
        assert failures(examine(given, now))


def test_raw_answers_of_intels_service_make_the_same_collateral() -> None:
    """The signed bytes are cut out of what Intel sent in 2023; the result is what was published as collateral."""
    parts = json.loads(collateral(EARLY))
    answers = {
        "tcb_info": PcsAnswer(
            file("tdx/gotdx_sample_tcbInfo_response"),
            {"TCB-Info-Issuer-Chain": percent(parts["tcb_info_issuer_chain"])},
        ),
        "qe_identity": PcsAnswer(
            file("tdx/gotdx_sample_qeIdentity_response"),
            {"SGX-Enclave-Identity-Issuer-Chain": percent(parts["qe_identity_issuer_chain"])},
        ),
        "pck_crl": PcsAnswer(
            file("tdx/gotdx_pckcrl"), {"SGX-PCK-CRL-Issuer-Chain": percent(parts["pck_crl_issuer_chain"])}
        ),
        "root_ca_crl": PcsAnswer(file("tdx/gotdx_rootcrl.der"), {}),
    }
    quoted = file(EARLY)[:-39]
    named = dict(zip(wanted(quoted), answers.values(), strict=True))
    assert merged(quoted, named, None) == collateral(EARLY)
    for url, answer in named.items():  # and each by itself is what Intel said in 2023
        assert judged(url, answer, TIMES[EARLY] * 1000, trusted(None)).at_ms <= TIMES[EARLY] * 1000


@pytest.mark.parametrize(
    ("name", "platform"),
    [(SGX3, "00A067110000"), (TDX4, "B0C06F000000"), (LOGGED, "00806F050000")],
    ids=["sgx", "tdx", "logged"],
)
def test_the_addresses_of_real_platforms(name: str, platform: str) -> None:
    """Platform and authority are those that were published with the quotes."""
    addresses = wanted(file(name))
    tee = name[:3]
    assert addresses[0] == f"https://api.trustedservices.intel.com/{tee}/certification/v4/tcb?fmspc={platform}"
    assert f"ca={'processor' if name == SGX3 else 'platform'}&" in addresses[2]


def logged_digests(log: bytes) -> dict[int, list[str]]:
    """Return the SHA-384 digests of a CCEL log by register index (TCG PC Client, 10.2), for this one log."""
    assert struct.unpack_from("<II", log) == (1, 3)
    offset = 32 + struct.unpack_from("<I", log, 28)[0]
    found: dict[int, list[str]] = {}
    while log[offset : offset + 4] != b"\xff" * 4:
        register, kind, count, algorithm = struct.unpack_from("<IIIH", log, offset)
        assert (count, algorithm) == (1, 0x0C)
        if kind != 3:
            found.setdefault(register, []).append(log[offset + 14 : offset + 62].hex())
        offset += 66 + struct.unpack_from("<I", log, offset + 62)[0]
    return found


def test_a_real_event_log_replays_onto_the_quoted_registers() -> None:
    """The log of a TD of Google's gives all its registers; one digest less, and it does not.

    There is no public collateral for this quote, so everything that needs it is not reached.
    """
    digests = logged_digests(file("tdx/gotdx_ccel_ccel_data.dat"))

    def replayed(logs: dict[int, list[str]]) -> tuple[str, StepOutcome]:
        registers = tuple(
            MeasuredEvents(register=Label(f"rtmr{index - 1}"), digests=tuple(map(MeasurementHex, logs[index])))
            for index in sorted(logs)
        )
        events = encode(EventList(registers=registers))
        found = examine(evidence(LOGGED, None, collateral(TDX4), events), TIMES[TDX4])
        outcomes = {step.name: step.outcome for step in found.steps}
        assert outcomes[Label("quote")] is outcomes[Label("pck_chain")] is outcomes[Label("signature")]
        assert outcomes[Label("signature")] is outcomes[Label("qe_report")] is StepOutcome.PASSED
        return str(sorted(logs)), outcomes[Label("replay")]

    assert replayed(digests) == ("[1, 2, 3]", StepOutcome.PASSED)
    assert replayed({**digests, 4: []}) == ("[1, 2, 3, 4]", StepOutcome.PASSED)
    for register in digests:
        assert replayed({**digests, register: digests[register][:-1]})[1] is StepOutcome.FAILED


@pytest.mark.parametrize("name", [SGX3, TDX4], ids=["sgx", "tdx"])
def test_every_changed_byte_of_real_evidence_is_refused(name: str) -> None:
    """A sample of all bytes of quote and collateral, and the bytes that the public list names."""
    dice = random.Random(20250704)
    parts = [file(name), collateral(name)]
    for index, part in enumerate(parts):
        named = [60, 200, len(part) // 2]
        for offset in {*named, *dice.sample(range(len(part)), 150)}:
            changed = bytearray(part)
            changed[offset] ^= dice.randrange(1, 256)
            given = [*parts[:index], bytes(changed), *parts[index + 1 :]]
            told = failures(examine(evidence(name, given[0], given[1]), TIMES[name]))
            assert "internal" not in told.values(), (index, offset)


def test_the_root_is_the_published_one() -> None:
    """The pinned root is the certificate that the public list holds, and that the package's list of sources names."""
    assert pinned_root() == file("sgx/intel_sgx_root_ca.der")
    assert sha256(pinned_root()).hexdigest() == "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
