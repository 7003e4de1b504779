"""Evidence of a vendor like Intel, made here: genuine as it is, and refused with each single defect, step by step."""

import json
import random
import re
import tomllib
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

import dcap_qvl  # type: ignore[import-untyped]
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attestation.tee.intel import maker
from tests.attestation.tee.intel.maker import DAY, NOW, NOW_MS, SGX, TDX4, TDX4_EVENTS, TDX5, TDX15, Recipe, but

from aigovtool.attestation.examination import Examined, StepOutcome
from aigovtool.attestation.model import Evidence, TeeType, VerifiedEvidence
from aigovtool.attestation.tee.intel.authentic import pinned_root
from aigovtool.attestation.tee.intel.verify import SGX_STEPS, TDX_STEPS, SgxVerifier, TdxVerifier
from aigovtool.attestation.verifier import Verifier, VerifierSet
from aigovtool.codec import encode
from aigovtool.errors import EvidenceError

ALL = {"sgx3": SGX, "tdx4": TDX4, "tdx4-events": TDX4_EVENTS, "tdx5": TDX5, "tdx5-1.5": TDX15}
BOTH = (SGX, TDX4)
ROOT = maker.root_der()
SEPT = 1 << 28
LEVEL_DATE = "2026-05-13T00:00:00Z"


def verifier(tee: TeeType, root: bytes = ROOT) -> Verifier:
    return SgxVerifier(root) if tee is TeeType.SGX else TdxVerifier(root)


def examine(made: Recipe | Evidence, now_ms: int = NOW_MS, root: bytes = ROOT) -> Examined:
    evidence = maker.evidence(made) if isinstance(made, Recipe) else made
    return verifier(evidence.tee, root).examine(evidence, now_ms)


def genuine(recipe: Recipe, now_ms: int = NOW_MS) -> VerifiedEvidence:
    return examine(recipe, now_ms).genuine()


def failures(made: Recipe | Evidence, now_ms: int = NOW_MS, root: bytes = ROOT) -> dict[str, str]:
    """Return the reason of each step that failed, in their order."""
    found = examine(made, now_ms, root)
    assert found.verified is None
    return {str(step.name): step.reason for step in found.steps if step.outcome is StepOutcome.FAILED}


def first(made: Recipe | Evidence, now_ms: int = NOW_MS) -> tuple[str, str]:
    """Return name and reason of the first step that failed."""
    return next(iter(failures(made, now_ms).items()))


def facts(found: VerifiedEvidence) -> dict[str, str]:
    return {str(fact.name): fact.value for fact in found.facts}


def measurements(found: VerifiedEvidence) -> dict[str, str]:
    return {str(one.name): one.digest for one in found.measurements}


def components(found: VerifiedEvidence) -> dict[str, int]:
    return {str(one.name): one.version for one in found.tcb.components}


# -- What genuine evidence says -----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_made_evidence_is_genuine(recipe: Recipe) -> None:
    """Without a defect every step passes, so each refusal below is due to its one defect."""
    found = examine(recipe)
    assert {step.outcome for step in found.steps} == {StepOutcome.PASSED}
    assert [step.name for step in found.steps][:-1] == [
        step.name for step in (SGX_STEPS if recipe.tee is TeeType.SGX else TDX_STEPS)
    ]
    said = found.genuine()
    assert (said.tee, said.debug, said.memory_encryption) == (recipe.tee, False, True)
    assert said.report_data == maker.REPORT_DATA
    assert said.chip_id == maker.PPID.hex()
    assert said.endorsed_since_ms == int((NOW - 10 * DAY).timestamp()) * 1000
    assert said.endorsed_until_ms == int((NOW + 20 * DAY).timestamp()) * 1000 - 1


def test_sgx_evidence_says_everything_under_its_name() -> None:
    """Every field of an enclave's report that a policy can judge comes back, in the form of the specification."""
    body = {
        "attributes": 0x485,
        "xfrm": 0x602E7,
        "misc_select": 1,
        "isv_ext_prod_id": b"\x01" * 16,
        "isv_family_id": b"\x02" * 16,
        "config_id": b"\x03" * 64,
        "config_svn": 9,
    }
    found = genuine(but(SGX, body=body, advisories=("INTEL-SA-00002", "INTEL-SA-00001")))
    assert measurements(found) == {"mr_enclave": "e1" * 32, "mr_signer": "e2" * 32}
    assert components(found) == {
        "isv_svn": 3,
        "config_svn": 9,
        "pce_svn": 11,
        "tcb_evaluation_data_number": 20,
        "tcb_level_date": 1778630400,
    }
    assert facts(found) == {
        "attributes": "8504000000000000",
        "flags": "init mode64bit kss aex_notify",
        "xfrm": "00000000000602e7",
        "misc_select": "00000001",
        "isv_prod_id": "7",
        "isv_ext_prod_id": "01" * 16,
        "isv_family_id": "02" * 16,
        "config_id": "03" * 64,
        "fmspc": "00906ea10000",
        "pce_id": "0000",
        "ca": "platform",
        "sgx_type": "1",
        "dynamic_platform": "true",
        "cached_keys": "false",
        "smt_enabled": "true",
        "tcb_status": "UpToDate",
        "qe_status": "UpToDate",
    }
    assert found.advisories == ("INTEL-SA-00001", "INTEL-SA-00002")
    assert found.events == ()


@pytest.mark.parametrize("recipe", [TDX4, TDX15], ids=["1.0", "1.5"])
def test_tdx_evidence_says_everything_under_its_name(recipe: Recipe) -> None:
    """Every field of a TD's report that a policy can judge comes back; TD 1.5 has two more."""
    found = genuine(
        but(
            recipe,
            body={
                "mr_config_id": b"\x0c" * 48,
                "mr_owner": b"\x0d" * 48,
                "mr_owner_config": b"\x0e" * 48,
                "rtmr3": b"\x0f" * 48,
                "td_attributes": SEPT | 1 << 30 | 1 << 63,
            },
        )
    )
    more = {"mr_service_td": "00" * 48} if recipe.td15 else {}
    assert measurements(found) == {
        "mr_td": "d2" * 48,
        "rtmr0": maker.rtmr(1).hex(),
        "rtmr1": maker.rtmr(2).hex(),
        "rtmr2": maker.rtmr(3).hex(),
        "rtmr3": "0f" * 48,
        "mr_config_id": "0c" * 48,
        "mr_owner": "0d" * 48,
        "mr_owner_config": "0e" * 48,
        "mr_seam": "d1" * 48,
        "mr_signer_seam": "00" * 48,
        **more,
    }
    assert components(found) == {
        **{f"tee_tcb_svn{index:02}": svn for index, svn in enumerate([6, 1, 3, *[0] * 13])},
        "pce_svn": 11,
        "tcb_evaluation_data_number": 20,
        "tcb_level_date": 1778630400,
    }
    said = facts(found)
    assert said["td_attributes"] == "0000005000000080"
    assert said["td_flags"] == "sept_ve_disable pks perfmon"
    assert said["xfam"] == "00000000000618e7"
    assert said["seam_attributes"] == "00" * 8
    assert said.get("tee_tcb_svn2") == (maker.TEE_TCB_SVN.hex() if recipe.td15 else None)


def test_what_the_pck_certificate_says_of_the_platform_is_told() -> None:
    """Flags that it does not have are undefined, which is another value than false; its authority is told."""
    processor = but(
        SGX,
        certificate={"authority": {"name": "Intel SGX PCK Processor CA"}},
        pck={"platform": None, "sgx_type": 0, "pce_svn": 13, "ppid": b"\x07" * 16},
    )
    found = genuine(processor)
    said = facts(found)
    assert (said["ca"], said["sgx_type"]) == ("processor", "0")
    assert {said[flag] for flag in ("dynamic_platform", "cached_keys", "smt_enabled")} == {"undefined"}
    assert (found.chip_id, components(found)["pce_svn"]) == ("07" * 16, 13)
    flags = facts(genuine(but(TDX4, pck={"platform": (False, True, False)})))
    assert [flags[flag] for flag in ("dynamic_platform", "cached_keys", "smt_enabled")] == ["false", "true", "false"]


@pytest.mark.parametrize(
    "status",
    [
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ],
)
@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
@pytest.mark.fault(23)
def test_every_status_but_revoked_is_a_fact(recipe: Recipe, status: str) -> None:
    """The library holds an outdated platform to be verified; so the status reaches the policy as it is."""
    found = genuine(but(recipe, status=status, advisories=("INTEL-SA-00615",)))
    assert facts(found)["tcb_status"] == status
    assert found.advisories == ("INTEL-SA-00615",)


@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
def test_an_outdated_quoting_enclave_shows(recipe: Recipe) -> None:
    """The quoting enclave's status and advisories are told, and make the whole outdated."""
    level = {"tcb": {"isvsvn": 4}, "tcbDate": LEVEL_DATE, "tcbStatus": "OutOfDate", "advisoryIDs": ["INTEL-SA-00334"]}
    found = genuine(but(recipe, qe_identity={"tcbLevels": [level]}))
    assert (facts(found)["tcb_status"], facts(found)["qe_status"]) == ("OutOfDate", "OutOfDate")
    assert found.advisories == ("INTEL-SA-00334",)


def test_a_quoting_enclave_that_needs_configuration_shows_in_its_own_status_only() -> None:
    """Intel's rule lets such a status of the quoting enclave not count: a policy must judge both facts."""
    said = facts(genuine(but(SGX, qe_status="ConfigurationNeeded")))
    assert (said["tcb_status"], said["qe_status"]) == ("UpToDate", "ConfigurationNeeded")


def test_a_td_whose_module_was_updated_since_its_launch_is_told_apart() -> None:
    """A TD 1.5 that was launched on an outdated module, of a platform that is up to date: relaunch is advised."""

    def level(svn: int, status: str) -> dict[str, Any]:
        sgx = [{"svn": part} for part in maker.CPU_SVN]
        tdx = [{"svn": part} for part in [svn, 0, 3, *[0] * 13]]
        tcb = {"sgxtcbcomponents": sgx, "tdxtcbcomponents": tdx, "pcesvn": 11}
        return {"tcb": tcb, "tcbDate": LEVEL_DATE, "tcbStatus": status}

    modules = [
        {"tcb": {"isvsvn": svn}, "tcbDate": LEVEL_DATE, "tcbStatus": s}
        for svn, s in ((6, "UpToDate"), (3, "OutOfDate"))
    ]
    module = {"id": "TDX_01", "mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    found = genuine(
        but(
            TDX15,
            body={"tee_tcb_svn": bytes([4, 1, 3]), "tee_tcb_svn2": bytes([7, 1, 3])},
            tcb_info={
                "tcbLevels": [level(6, "UpToDate"), level(3, "OutOfDate")],
                "tdxModuleIdentities": [{**module, "tcbLevels": modules}],
            },
        )
    )
    assert facts(found)["tcb_status"] == "TDRelaunchAdvised"


# -- Label, endorsements, events ----------------------------------------------------------------------------


def test_a_label_is_not_believed() -> None:
    """A quote under the other label is refused by both verifiers, and so is any other label."""
    sgx, tdx = maker.evidence(SGX), maker.evidence(TDX4)
    assert first(msgspec.structs.replace(sgx, tee=TeeType.TDX)) == ("quote", "tee_mismatch")
    assert first(msgspec.structs.replace(tdx, tee=TeeType.SGX)) == ("quote", "tee_mismatch")
    for evidence, wrong in ((sgx, TdxVerifier(ROOT)), (tdx, SgxVerifier(ROOT))):
        with pytest.raises(EvidenceError) as caught:
            VerifierSet({evidence.tee: wrong}).verify(evidence, NOW_MS)
        assert caught.value.reason == "tee_mismatch"
    labelled = msgspec.structs.replace(tdx, tee=TeeType.NITRO)
    assert next(s for s in TdxVerifier(ROOT).examine(labelled, NOW_MS).steps if s.reason).reason == "tee_mismatch"


def test_endorsements_are_counted_and_known() -> None:
    """No collateral, two of them, two lists of events, or anything else beside them is refused."""
    data, part = maker.quote(TDX4), encode(maker.collateral(TDX4))
    events = maker.event_list(1, 2, 3)
    for endorsements, expected in (
        ((), "endorsement_count"),
        ((events,), "endorsement_count"),
        ((part, part), "endorsement_count"),
        ((part, events, events), "endorsement_count"),
        ((part, b"{}"), "endorsement_unknown"),
        ((part, b""), "endorsement_unknown"),
        ((part, events, b"x"), "endorsement_unknown"),
    ):
        evidence = Evidence(tee=TeeType.TDX, data=data, endorsements=endorsements)
        assert first(evidence) == ("label", expected)
    assert examine(Evidence(tee=TeeType.TDX, data=data, endorsements=(events, part))).verified is not None
    enclave = Evidence(tee=TeeType.SGX, data=maker.quote(SGX), endorsements=(encode(maker.collateral(SGX)), events))
    assert first(enclave) == ("label", "endorsement_count")


def with_events(events: bytes) -> Evidence:
    return Evidence(tee=TeeType.TDX, data=maker.quote(TDX4), endorsements=(encode(maker.collateral(TDX4)), events))


def test_events_are_believed_only_if_they_give_the_registers() -> None:
    """A digest that was changed, left out, added, or put in another order gives another register."""
    assert examine(with_events(maker.event_list(1, 2, 3))).genuine().events[2].digests == maker.EVENTS
    assert examine(with_events(maker.event_list(1, 2, 3, 0))).genuine().events[3].digests == ()
    assert [log.register for log in examine(with_events(maker.event_list(1))).genuine().events] == ["rtmr0"]
    for counts in ((2, 2, 3), (0, 2, 3), (1, 3, 3), (1, 2, 3, 1)):
        assert failures(with_events(maker.event_list(*counts))) == {"replay": "event_replay"}
    swapped = maker.event_list(1, 2, 3).replace(
        f'"{maker.EVENTS[0]}","{maker.EVENTS[1]}"'.encode(), f'"{maker.EVENTS[1]}","{maker.EVENTS[0]}"'.encode()
    )
    assert failures(with_events(swapped)) == {"replay": "event_replay"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((b'"rtmr0"', b'"rtmr4"'), "event_register"),
        ((b'"rtmr0"', b'"mr_td"'), "event_register"),
        ((b'"rtmr1"', b'"rtmr0"'), "event_register"),
        ((b'"rtmr0"', b'"rtmr3"'), "event_register"),
        ((b'"digests":', b'"digests": '), "event_encoding"),
        ((b'"digests":', b'"digest":'), "event_encoding"),
        ((b'["', b'["A'), "event_encoding"),
        ((b"}]}", b"}]}\n"), "event_encoding"),
    ],
)
def test_a_list_of_events_has_one_encoding(change: tuple[bytes, bytes], expected: str) -> None:
    """Registers are RTMRs in their order, once each; everything else is canonical JSON or refused."""
    events = maker.event_list(1, 2, 3)
    assert first(with_events(events.replace(*change, 1))) == ("event_list", expected)


def test_digests_of_another_algorithm_are_refused() -> None:
    """A SHA-256 digest is not extended into a register of SHA-384."""
    events = b'{"registers":[{"register":"rtmr0","digests":["%s"]}]}' % (b"00" * 32)
    assert first(with_events(events)) == ("replay", "event_digest")


# -- Chains -------------------------------------------------------------------------------------------------


def test_the_pinned_root_is_the_one_that_its_source_names() -> None:
    """The file of the package is what `SOURCES.toml` says, by its digest, and signs itself."""
    folder = files("aigovtool.attestation.tee.intel").joinpath("trust")
    (anchor,) = tomllib.loads(folder.joinpath("SOURCES.toml").read_text())["anchor"]
    root = x509.load_pem_x509_certificate(folder.joinpath(anchor["file"]).read_bytes())
    assert sha256(pinned_root()).hexdigest() == anchor["sha256"] == sha256(root.public_bytes(Encoding.DER)).hexdigest()
    root.verify_directly_issued_by(root)


def test_only_the_given_root_is_believed() -> None:
    """Perfect evidence of another root is refused by Intel's own, which is the default; with either verifier."""
    for recipe, default in ((SGX, SgxVerifier()), (TDX4, TdxVerifier())):
        found = default.examine(maker.evidence(recipe), NOW_MS)
        assert {s.name: s.reason for s in found.steps if s.reason} == {"pck_chain": "chain_root"}
        # Same names, same serial numbers, another key.
        other = but(recipe, certificate={"root": {"key": "stranger"}}, signed_by={"root": "stranger"})
        assert failures(other)["pck_chain"] == "chain_root"


@pytest.mark.parametrize("root", [b"", b"\x30\x00", ROOT + b"\0", maker.pem(maker.certificate(TDX4, "root")).encode()])
def test_a_root_is_one_certificate(root: bytes) -> None:
    """A verifier cannot be made with a root that is none, so it is not found out at the first evidence."""
    for kind in (SgxVerifier, TdxVerifier):
        with pytest.raises(EvidenceError):
            kind(root)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"signed_by": {"leaf": "stranger"}}, ("pck_chain", "chain_signature")),
        ({"signed_by": {"leaf": "signing"}}, ("pck_chain", "chain_signature")),
        ({"signed_by": {"authority": "stranger"}}, ("pck_chain", "chain_signature")),
        ({"signed_by": {"signing": "stranger"}}, ("signers", "chain_signature")),
        ({"signed_by": {"signing": "authority"}}, ("signers", "chain_signature")),
        ({"certificate": {"leaf": {"issuer": "Intel SGX Root CA"}}}, ("pck_chain", "chain_issuer")),
        ({"certificate": {"signing": {"issuer": "Intel SGX PCK Platform CA"}}}, ("signers", "chain_issuer")),
        ({"certificate": {"leaf": {"name": "Intel SGX TCB Signing"}}}, ("pck_chain", "chain_name")),
        ({"certificate": {"signing": {"name": "Intel SGX PCK Platform CA"}}}, ("signers", "chain_name")),
        ({"certificate": {"authority": {"name": "Intel SGX PCK Other CA"}}}, ("pck_chain", "chain_name")),
        ({"certificate": {"authority": {"ca": False}}}, ("pck_chain", "chain_ca")),
        ({"certificate": {"authority": {"usage": False}}}, ("pck_chain", "chain_usage")),
        ({"certificate": {"leaf": {"critical": True}}}, ("pck_chain", "chain_extension")),
        ({"certificate": {"signing": {"critical": True}}}, ("signers", "chain_extension")),
        ({"certificate": {"leaf": {"hash": SHA384()}}}, ("pck_chain", "chain_algorithm")),
        ({"certificate": {"signing": {"hash": SHA384()}}}, ("signers", "chain_algorithm")),
    ],
    ids=lambda one: re.sub(" object at 0x[0-9a-f]+", "", str(one)),  # a name is the same in every process
)
@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
@pytest.mark.attack(7)
def test_a_chain_with_one_defect_is_refused(recipe: Recipe, changes: Any, expected: tuple[str, str]) -> None:
    """Strangers' signatures, wrong issuers, names, purposes and algorithms: each is refused by its step and name."""
    assert first(but(recipe, **changes)) == expected


@pytest.mark.parametrize("part", ["leaf", "authority", "signing"])
@pytest.mark.attack(7)
def test_a_key_on_another_curve_is_refused(part: str) -> None:
    """Intel uses P-256 alone, so a certificate for another curve is none of Intel's."""
    signed_by = {"leaf": "authority@p384"} if part == "authority" else {}
    made = maker.collateral(TDX4)
    recipe = but(TDX4, certificate={part: {"key": f"{part}@p384"}}, signed_by=signed_by)
    chain = maker.pem(*(maker.certificate(recipe, name) for name in ("leaf", "authority", "root"))).encode()
    usual = maker.pem(*(maker.certificate(TDX4, name) for name in ("leaf", "authority", "root"))).encode()
    if part == "signing":
        signing = maker.pem(maker.certificate(recipe, "signing"), maker.certificate(recipe, "root"))
        parts = encode(msgspec.structs.replace(made, tcb_info_issuer_chain=signing))
        assert first(Evidence(tee=TeeType.TDX, data=maker.quote(TDX4), endorsements=(parts,))) == (
            "signers",
            "chain_algorithm",
        )
        return
    data = maker.quote(TDX4)
    grown = len(chain) - len(usual)
    section = data[632:].replace(usual, chain)
    for offset, width in ((0, 4), (4 + 130, 4), (4 + 134 + 448 + 34 + 2, 4)):
        length = int.from_bytes(section[offset : offset + width], "little") + grown
        section = section[:offset] + length.to_bytes(width, "little") + section[offset + width :]
    evidence = Evidence(tee=TeeType.TDX, data=data[:632] + section, endorsements=(encode(made),))
    assert first(evidence) == ("pck_chain", "chain_algorithm")


@pytest.mark.attack(7)
def test_chains_have_their_exact_length_and_order() -> None:
    """A chain without its root, with a certificate too many, or upside down is refused."""
    made, root = maker.collateral(TDX4), maker.certificate(TDX4, "root")
    signing, authority = maker.certificate(TDX4, "signing"), maker.certificate(TDX4, "authority")
    for member in ("tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        for chain, expected in (
            ([signing], "chain_length"),
            ([signing, root, root], "chain_length"),
            ([signing, authority, root], "chain_length"),
            ([root, signing], "chain_name"),
            ([root, root], "chain_name"),
            ([authority, root], "chain_name"),
        ):
            parts = encode(msgspec.structs.replace(made, **{member: maker.pem(*chain)}))
            evidence = Evidence(tee=TeeType.TDX, data=maker.quote(TDX4), endorsements=(parts,))
            assert first(evidence) == ("signers", expected)


def test_the_pck_list_comes_with_the_authority_of_the_pck_certificate() -> None:
    """The chain of the PCK revocation list is the one above the PCK certificate, certificate by certificate."""
    made = maker.collateral(TDX4)
    other = maker.certificate(but(TDX4, certificate={"authority": {"until": NOW + 800 * DAY}}), "authority")
    for chain in ((other,), (other, maker.certificate(TDX4, "root")), (maker.certificate(TDX4, "root"),)):
        parts = encode(msgspec.structs.replace(made, pck_crl_issuer_chain=maker.pem(*chain)))
        evidence = Evidence(tee=TeeType.TDX, data=maker.quote(TDX4), endorsements=(parts,))
        assert first(evidence) == ("signers", "chain_mismatch")


# -- What Intel signed, revocation, time --------------------------------------------------------------------


@pytest.mark.parametrize("signer", ["stranger", "leaf", "authority", "root"])
@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_documents_are_signed_by_the_tcb_signing_key(part: str, signer: str) -> None:
    """No other key, not even another one of Intel's, speaks about platforms."""
    assert first(but(TDX4, signed_by={part: signer})) == ("documents", f"{part}_signature")


@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
def test_a_document_changed_after_signing_is_refused(recipe: Recipe) -> None:
    """A status that somebody improved, or white space that somebody added, is not what Intel signed."""
    made = maker.collateral(but(recipe, status="OutOfDate"))
    for old, new in (("OutOfDate", "UpToDate"), ('"version":3', '"version": 3')):
        parts = encode(msgspec.structs.replace(made, tcb_info=made.tcb_info.replace(old, new)))
        evidence = Evidence(tee=recipe.tee, data=maker.quote(recipe), endorsements=(parts,))
        assert first(evidence) == ("documents", "tcb_info_signature")


@pytest.mark.parametrize(
    ("revoked", "lists"),
    [("leaf", "pck_crl"), ("authority", "root_crl"), ("signing", "root_crl"), ("root", "root_crl")],
)
@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
@pytest.mark.attack(6)
def test_a_revoked_certificate_is_refused(recipe: Recipe, revoked: str, lists: str) -> None:
    """Leaf, PCK CA, TCB signing certificate and root: each is looked up in the list of its issuer."""
    assert failures(but(recipe, revoked=frozenset({revoked}))) == {"revocation": "revoked"}
    assert genuine(but(recipe, lists={lists: {"until": NOW + 400 * DAY}}))


@pytest.mark.parametrize("part", ["root_crl", "pck_crl"])
def test_a_list_is_a_whole_one_by_the_right_issuer(part: str) -> None:
    """Strangers' lists, lists of the other issuer, and lists of changes only are refused."""
    assert first(but(TDX4, signed_by={part: "stranger"})) == ("revocation", "revocation_signature")
    assert first(but(TDX4, lists={part: {"hash": SHA384()}})) == ("revocation", "revocation_signature")
    assert first(but(TDX4, lists={part: {"issuer": "Intel SGX TCB Signing"}})) == ("revocation", "revocation_issuer")
    assert first(but(TDX4, lists={part: {"delta": True}})) == ("revocation", "revocation_extension")
    made = maker.collateral(TDX4)
    swapped = encode(msgspec.structs.replace(made, root_ca_crl=made.pck_crl, pck_crl=made.root_ca_crl))
    evidence = Evidence(tee=TeeType.TDX, data=maker.quote(TDX4), endorsements=(swapped,))
    assert first(evidence) == ("revocation", "revocation_issuer")


@pytest.mark.parametrize("part", ["root_crl", "pck_crl"])
def test_a_list_that_never_ends_is_refused(part: str) -> None:
    """Without a next update nobody could tell that a newer list is held back."""
    told = failures(but(TDX4, lists={part: {"endless": True}}))
    assert told == {"time": "revocation_stale", "revocation": "revocation_stale"}


CERTIFIED = ("leaf", "authority", "signing")
LISTED = ("root_crl", "pck_crl")
DATED = ("tcb_info", "qe_identity")


def in_window(part: str, since: datetime, until: datetime) -> dict[str, Any]:
    """Return the change of a recipe by which one part is valid from `since` to `until`."""
    if part in DATED:
        return {part: {"issueDate": maker.stamp(since), "nextUpdate": maker.stamp(until)}}
    return {"certificate" if part in CERTIFIED else "lists": {part: {"since": since, "until": until}}}


@pytest.mark.parametrize("part", [*CERTIFIED, *LISTED, *DATED])
@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
@pytest.mark.attack(6)
def test_each_part_is_valid_from_its_first_to_its_last_second(recipe: Recipe, part: str) -> None:
    """One second before its begin and one after its end, a single part makes all of it refused."""
    since, until = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
    evidence = maker.evidence(but(recipe, **in_window(part, since, until)))
    begin, end = (int(time.timestamp()) * 1000 for time in (since, until))
    # A revocation list ends before its next update, everything else with its last second.
    last = end - 1 if part in LISTED else end
    for inside in (begin, last):
        assert examine(evidence, inside).genuine().endorsed_until_ms == last
    assert first(evidence, begin - 1) == ("time", "not_yet_valid")
    assert first(evidence, last + 1) == ("time", "collateral_expired")


def test_the_age_of_collateral_is_that_of_its_oldest_statement() -> None:
    """What Intel makes anew each month counts, whichever is oldest; not the root's list, which it makes once a year."""
    usual, older = (int((NOW - days * DAY).timestamp()) * 1000 for days in (10, 11))
    for part in (*LISTED, *DATED):
        found = genuine(but(TDX4, **in_window(part, NOW - 11 * DAY, NOW + DAY)))
        assert found.endorsed_since_ms == (usual if part == "root_crl" else older)


@pytest.mark.parametrize("now_ms", [-(2**63), -1, 0, 2**53 - 1, 2**80])
def test_any_time_gives_an_answer(now_ms: int) -> None:
    """Before 1970 nothing is valid yet, and in the far future nothing any more."""
    assert first(TDX4, now_ms)[0] == "time"


# -- Quoting enclave, signature, attributes -----------------------------------------------------------------


@pytest.mark.parametrize("recipe", BOTH, ids=["sgx", "tdx"])
def test_each_signature_of_the_quote_is_by_its_key(recipe: Recipe) -> None:
    """Quoting enclave by the PCK key, quote by the attestation key, attestation key by the quoting enclave."""
    assert failures(but(recipe, signed_by={"qe_report": "stranger"}))["qe_report"] == "qe_report_signature"
    assert failures(but(recipe, signed_by={"qe_report": "authority"}))["qe_report"] == "qe_report_signature"
    assert failures(but(recipe, signed_by={"quote": "stranger"})) == {"signature": "quote_signature"}
    assert failures(but(recipe, signed_by={"quote": "leaf"})) == {"signature": "quote_signature"}
    # The attacker's own key in the quote, which the quoting enclave does not vouch for.
    own = but(recipe, quoted_key=maker.raw_key("stranger"), signed_by={"quote": "stranger"})
    assert failures(own) == {"qe_report": "qe_key"}
    assert failures(but(recipe, qe_key="stranger")) == {"qe_report": "qe_key"}


def test_a_key_that_is_no_point_is_refused() -> None:
    """An attestation key outside its curve is an answer, not an error."""
    for raw in (bytes(64), b"\xff" * 64, bytes(63) + b"\x01"):
        assert failures(but(TDX4, quoted_key=raw))["signature"] == "quote_signature"


def test_the_rest_of_the_quoting_enclaves_report_data_is_zero() -> None:
    """The specification leaves no room behind the hash, so nothing hides there."""
    hashed = maker.layout(maker.ENCLAVE, 384, {"report_data": maker.qe_report(TDX4)[320:352] + b"\x01"})[320:]
    assert failures(but(TDX4, qe={"report_data": hashed})) == {"qe_report": "qe_key"}


@pytest.mark.parametrize("recipe", [TDX4, TDX5, TDX15], ids=["4", "5", "1.5"])
@pytest.mark.parametrize("bit", range(64))
@pytest.mark.attack(5)
def test_every_attribute_of_a_td_is_refused_or_told(recipe: Recipe, bit: int) -> None:
    """Debug, profiling, migration, service extensions and unknown bits are refused; the others are named facts."""
    if recipe is not TDX4 and bit not in {0, 4, 16, 17, 18, 29, 63}:
        return
    made = but(recipe, body={"td_attributes": SEPT | 1 << bit})
    told = {16: "icssd", 27: "lass", 30: "pks", 31: "kl", 62: "tpa", 63: "perfmon"}
    if bit == 28:
        assert facts(genuine(made))["td_flags"] == "sept_ve_disable"
    elif bit in told:
        assert set(facts(genuine(made))["td_flags"].split()) == {"sept_ve_disable", told[bit]}
    else:
        assert first(made) == ("attributes", "debug" if bit == 0 else "td_attributes")


@pytest.mark.attack(5)
def test_a_td_that_its_host_can_disturb_is_refused() -> None:
    """Without SEPT_VE_DISABLE the host can make a TD handle exceptions of its choice; a service TD can move it."""
    assert failures(but(TDX4, body={"td_attributes": 0})) == {"attributes": "td_sept_ve", "platform": "td_sept_ve"}
    service = but(TDX15, body={"mr_service_td": b"\x01" * 48})
    assert failures(service) == {"attributes": "td_service", "platform": "td_service"}


def test_debug_is_refused_with_the_reason_of_an_appraisal() -> None:
    """The library verifies no quote in debug mode, so it never becomes a fact; the reason is the same word."""
    assert failures(but(SGX, body={"attributes": 0x07})) == {"attributes": "debug", "platform": "debug"}
    assert failures(but(TDX15, body={"td_attributes": SEPT | 1})) == {"attributes": "debug", "platform": "debug"}


# -- Intel's rules ------------------------------------------------------------------------------------------

OLD_LEVEL = {
    "tcb": {"sgxtcbcomponents": [{"svn": 255}] * 16, "tdxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 11},
    "tcbDate": LEVEL_DATE,
    "tcbStatus": "UpToDate",
}
SHORT_LEVEL = {**OLD_LEVEL, "tcb": {"sgxtcbcomponents": [{"svn": 0}], "tdxtcbcomponents": [], "pcesvn": 0}}
SOME_DAY_LEVEL = {
    "tcb": {"sgxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0},
    "tcbDate": "soon",
    "tcbStatus": "UpToDate",
}
OTHER_MODULE = {
    "id": "TDX_01",
    "mrsigner": "01" * 48,
    "attributes": "00" * 8,
    "attributesMask": "FF" * 8,
    "tcbLevels": [],
}


@pytest.mark.parametrize(
    ("recipe", "changes", "expected"),
    [
        (SGX, {"status": "Revoked"}, "tcb_revoked"),
        (TDX4, {"status": "Revoked"}, "tcb_revoked"),
        (SGX, {"qe_status": "Revoked"}, "tcb_revoked"),
        (SGX, {"tcb_info": {"tcbLevels": []}}, "tcb_level"),
        (TDX4, {"tcb_info": {"tcbLevels": [OLD_LEVEL]}}, "tcb_level"),
        (SGX, {"tcb_info": {"tcbLevels": [SHORT_LEVEL]}}, "tcb_level"),
        (SGX, {"pck": {"cpu_svn": bytes(16)}}, "tcb_level"),
        (SGX, {"pck": {"pce_svn": 10}}, "tcb_level"),
        (TDX4, {"body": {"tee_tcb_svn": bytes([6, 1, 2])}}, "tcb_level"),
        (TDX15, {"body": {"tee_tcb_svn2": bytes([1, 1, 1])}}, "tcb_level"),
        (SGX, {"tcb_info": {"fmspc": "00906EA10001"}}, "tcb_platform"),
        (TDX4, {"pck": {"fmspc": "00906EA10001"}}, "tcb_platform"),
        (SGX, {"tcb_info": {"pceId": "0001"}}, "tcb_platform"),
        (TDX4, {"pck": {"pce_id": b"\x01\x00"}}, "tcb_platform"),
        (SGX, {"tcb_info": {"id": "TDX"}}, "tcb_kind"),
        (TDX4, {"tcb_info": {"id": "SGX"}}, "tcb_kind"),
        (TDX4, {"tcb_info": {"version": 2}}, "tcb_kind"),
        (TDX4, {"body": {"mr_signer_seam": b"\x01"}}, "tdx_module"),
        (TDX4, {"body": {"seam_attributes": 1}}, "tdx_module"),
        (TDX4, {"body": {"tee_tcb_svn": bytes([6, 2, 3])}}, "tdx_module"),
        (
            TDX4,
            {"tcb_info": {"tdxModuleIdentities": [OTHER_MODULE]}},
            "tdx_module",
        ),
        (SGX, {"qe": {"mr_signer": b"\x01" * 32}}, "qe_identity"),
        (TDX4, {"qe": {"isv_prod_id": 1}}, "qe_identity"),
        (TDX4, {"qe": {"misc_select": 1}}, "qe_identity"),
        (SGX, {"qe": {"attributes": 0x05}}, "qe_identity"),
        (SGX, {"qe": {"attributes": 0x17}}, "qe_identity"),
        (SGX, {"qe_identity": {"id": "TD_QE"}}, "qe_identity"),
        (TDX4, {"qe_identity": {"id": "QE"}}, "qe_identity"),
        (SGX, {"qe_identity": {"version": 1}}, "qe_identity"),
        (SGX, {"qe": {"isv_svn": 3}}, "qe_level"),
        (SGX, {"qe_identity": {"tcbLevels": []}}, "qe_level"),
        (SGX, {"status": "Fine"}, "document_encoding"),
        (SGX, {"qe_status": "Fine"}, "document_encoding"),
        (TDX4, {"qe_status": "SWHardeningNeeded"}, "document_encoding"),
        (SGX, {"tcb_info": {"tcbLevels": [SOME_DAY_LEVEL]}}, "document_encoding"),
    ],
    ids=str,
)
def test_what_intels_rules_refuse_has_a_reason(recipe: Recipe, changes: Any, expected: str) -> None:
    """Each objection of the library to properly signed evidence is a failure of the one step, by a stable word."""
    assert failures(but(recipe, **changes)) == {"platform": expected}


def test_collateral_of_the_other_platform_is_refused() -> None:
    """An enclave's quote with a TD's collateral, both perfect, is refused, and the other way round."""
    for recipe, other in ((SGX, TDX4), (TDX4, SGX)):
        parts = encode(maker.collateral(other))
        evidence = Evidence(tee=recipe.tee, data=maker.quote(recipe), endorsements=(parts,))
        assert failures(evidence) == {"platform": "qe_identity"}


def test_a_certificate_without_the_extension_names_no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    """An objection whose words are not known here is still one."""
    monkeypatch.setattr(maker, "pck_extension", lambda own: b"\x30\x00")
    assert failures(TDX4) == {"platform": "quote_not_genuine"}


@pytest.mark.parametrize(
    ("change", "recipe"),
    [
        ({"status": "UpToDate"}, but(SGX, qe_status="OutOfDate")),
        ({"status": "SWHardeningNeeded"}, but(TDX4, status="OutOfDate")),
    ],
    ids=["enclave", "platform"],
)
@pytest.mark.attack(6)
def test_a_verdict_better_than_its_parts_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], recipe: Recipe
) -> None:
    """Should the library ever call a TCB up to date of which a part is not, that is not passed on."""
    told = msgspec.json.decode

    def better(text: str | bytes, **options: Any) -> Any:
        claims = told(text, **options)
        if isinstance(text, bytes):  # the library alone tells text
            return claims
        return msgspec.structs.replace(claims, tcb=msgspec.structs.replace(claims.tcb, **change))

    evidence = maker.evidence(recipe)
    assert examine(evidence).verified is not None
    monkeypatch.setattr(msgspec.json, "decode", better)
    assert failures(evidence) == {"platform": "verdict_inconsistent"}


@pytest.mark.parametrize("recipe", [SGX, TDX4, TDX15], ids=["sgx", "1.0", "1.5"])
@pytest.mark.parametrize("field", ["report_data", "measurement"])
def test_a_verdict_about_another_report_is_refused(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, field: str) -> None:
    """Library and own reader must have read the same bytes."""
    told = msgspec.json.decode
    name = field if field == "report_data" else ("mr_enclave" if recipe is SGX else "mr_td")

    def other(text: str | bytes, **options: Any) -> Any:
        if isinstance(text, bytes):  # the library alone tells text
            return told(text, **options)
        return told(text.replace(f'"{name}":', f'"was_{name}":'), **options)

    evidence = maker.evidence(recipe)
    monkeypatch.setattr(msgspec.json, "decode", other)
    assert failures(evidence) == {"platform": "verdict_inconsistent"}


def test_a_library_that_breaks_off_has_said_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed assertion in compiled code is no `Exception` in Python; it ends nothing. Other such things do."""
    kinds = {"PanicException": type("PanicException", (BaseException,), {}), "KeyboardInterrupt": KeyboardInterrupt}

    class Broken:
        def __init__(self, kind: type[BaseException]) -> None:
            self.kind = kind

        def __call__(self, _root: bytes) -> "Broken":
            return self

        def verify_with_policy(self, *_: object) -> object:
            raise self.kind

    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", Broken(kinds["PanicException"]))
    assert failures(TDX4) == {"platform": "quote_not_genuine"}
    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", Broken(kinds["KeyboardInterrupt"]))
    with pytest.raises(KeyboardInterrupt):
        examine(TDX4)


def test_compiled_code_sees_only_what_was_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where any of our own steps about authenticity failed, the library is not even asked."""

    def asked(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(dcap_qvl, "QuoteVerifier", asked)
    for changes in (
        {"signed_by": {"quote": "stranger"}},
        {"signed_by": {"qe_report": "stranger"}},
        {"signed_by": {"tcb_info": "stranger"}},
        {"signed_by": {"leaf": "stranger"}},
        {"revoked": frozenset({"leaf"})},
        {"lists": {"pck_crl": {"until": NOW - DAY}}},
    ):
        found = examine(but(TDX4, **changes))
        platform = next(step for step in found.steps if step.name == "platform")
        assert platform.outcome is StepOutcome.NOT_REACHED


# -- Every byte, and any bytes ------------------------------------------------------------------------------


@cache
def parts(name: str) -> tuple[bytes, ...]:
    evidence = maker.evidence(ALL[name])
    return (evidence.data, *evidence.endorsements)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.attack(7)
def test_every_changed_byte_is_refused(name: str) -> None:
    """A sample of all bytes of quote, collateral and events: whatever a byte is changed to, all of it is refused."""
    dice = random.Random(20270115)
    tee = ALL[name].tee
    for index, part in enumerate(parts(name)):
        for offset in sorted(dice.sample(range(len(part)), min(60, len(part)))):
            changed = bytearray(part)
            changed[offset] ^= dice.randrange(1, 256)
            given_parts = [*parts(name)[:index], bytes(changed), *parts(name)[index + 1 :]]
            evidence = Evidence(tee=tee, data=given_parts[0], endorsements=tuple(given_parts[1:]))
            assert "internal" not in failures(evidence).values(), (index, offset)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = list(json.loads(maker.tcb_info(TDX4)))
fuzz = settings(derandomize=True, max_examples=150, deadline=None)


@settings(fuzz, max_examples=60)
@given(member=st.sampled_from(MEMBERS), value=JSON, part=st.sampled_from(["tcb_info", "qe_identity"]))
def test_signed_nonsense_gives_only_typed_failures(member: str, value: object, part: str) -> None:
    """A document that is properly signed but holds anything at all in one member ends no verifier."""
    found = examine(but(TDX4, **{part: {member: value}}))
    assert "internal" not in {step.reason for step in found.steps}


@fuzz
@given(
    name=st.sampled_from(list(ALL)),
    index=st.integers(0, 2),
    at=st.integers(0, 20_000),
    piece=st.binary(max_size=64),
    cut=st.integers(0, 64),
    tee=st.sampled_from([TeeType.SGX, TeeType.TDX]),
)
@pytest.mark.attack(9)
def test_any_bytes_give_only_typed_failures(  # noqa: PLR0917 - a fuzzer turns every knob
    name: str, index: int, at: int, piece: bytes, cut: int, tee: TeeType
) -> None:
    """Bytes written over, put in or cut out anywhere are refused, or are what was there."""
    given_parts = list(parts(name))
    index %= len(given_parts)
    part = given_parts[index]
    at %= len(part)
    given_parts[index] = part[:at] + piece + part[at + cut :] or b"\0"
    evidence = Evidence(tee=tee, data=given_parts[0], endorsements=tuple(given_parts[1:]))
    found = examine(evidence)
    assert "internal" not in {step.reason for step in found.steps}
    if found.verified is not None:
        assert given_parts[1:] == list(parts(name))[1:]
        assert given_parts[0].rstrip(b"\0") == parts(name)[0].rstrip(b"\0")
