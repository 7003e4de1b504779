"""Rules and attacks on evidence of SEV-SNP, with a processor and an AMD of the tests' own."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.x509.oid import ObjectIdentifier
from tests.attestation.tee.snp import maker
from tests.attestation.tee.snp.maker import (
    CHIP,
    DAY,
    GENOA,
    MILAN,
    NOW,
    NOW_MS,
    TCB,
    TURIN,
    authorities,
    authority,
    bundle,
    der,
    examine,
    leaf,
    leaf_key,
    pem,
    refused,
    report,
    revocation_list,
    roots,
    rsa_key,
    usual_leaf,
)

from aigovtool.attestation.model import Evidence, TeeType, VerifiedEvidence
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.verify import STEPS, SnpVerifier
from aigovtool.attestation.verifier import Verifier, VerifierSet
from aigovtool.errors import EvidenceError

_KINDS = [(product, kind) for product in Product for kind in ("vcek", "vlek")]


def genuine(evidence: Evidence) -> VerifiedEvidence:
    return examine(evidence).genuine()


def facts(evidence: Evidence) -> dict[str, str]:
    return {str(fact.name): fact.value for fact in genuine(evidence).facts}


def tcb(evidence: Evidence) -> dict[str, int]:
    return {str(part.name): part.version for part in genuine(evidence).tcb.components}


@pytest.mark.parametrize(("product", "kind"), _KINDS)
def test_every_product_and_kind_of_key_is_verified(product: Product, kind: str) -> None:
    """Without a defect the maker of these tests is believed, so each refusal below is due to its one defect."""
    found = genuine(bundle(report(product, kind=kind), *der(usual_leaf(product, kind))))
    assert found.tee is TeeType.SEV_SNP
    assert [(one.name, one.digest) for one in found.measurements] == [("launch", "5a" * 48)]
    assert found.report_data == bytes(range(100, 164))
    assert (found.debug, found.memory_encryption) == (False, True)
    assert found.chip_id == (CHIP[product].ljust(64, b"\0").hex() if kind == "vcek" else None)
    said = {str(fact.name): fact.value for fact in found.facts}
    assert (said["product"], said["signing_key"], said["paravisor"]) == (product, kind, "none")
    assert said["csp_id"] == (maker.PROVIDER if kind == "vlek" else "none")
    assert found.endorsed_until_ms == int((NOW + 300 * DAY).timestamp() * 1000)
    assert found.endorsed_since_ms is None
    assert said["revocation"] == "not_checked"


@pytest.mark.parametrize("product", Product)
def test_versions_of_the_tcb_are_reported_by_component(product: Product) -> None:
    """The same five numbers come back under the same names, wherever this product's TCB_VERSION has them."""
    launch = bytes(max(part - 1, 0) for part in TCB[product])
    data = report(product, launch_tcb=launch, guest_svn=0xFFFFFFFF, committed_firmware=bytes((28, 55, 1)))
    found = tcb(bundle(data, *der(usual_leaf(product))))
    fmc = {"fmc": 2, "launch_fmc": 1} if product is TURIN else {}
    expected = {"bootloader": 3, "tee": 1, "snp": 8, "microcode": 0xD1}
    assert found == expected | {f"launch_{name}": value - 1 for name, value in expected.items()} | fmc | {
        "firmware": 1 << 16 | 55 << 8 | 28,
        "guest_svn": 0xFFFFFFFF,
    }


@pytest.mark.parametrize(
    ("bit", "fact"),
    [
        (16, "policy_smt"),
        (18, "policy_migrate_ma"),
        (20, "policy_single_socket"),
        (21, "policy_cxl"),
        (22, "policy_aes_256_xts"),
        (23, "policy_rapl_off"),
        (24, "policy_ciphertext_hiding"),
        (25, "policy_page_swap_off"),
    ],
)
def test_each_bit_of_the_guest_policy_is_a_fact(bit: int, fact: str) -> None:
    """A bit of the guest policy changes its own fact, and nothing else."""
    off, on = (facts(bundle(report(policy=1 << 17 | 0x0135 | value << bit))) for value in (0, 1))
    assert (off[fact], on[fact]) == ("no", "yes")
    assert {name for name in off if off[name] != on[name]} == {fact}
    assert off["policy_abi"] == "1.53"


@pytest.mark.parametrize(
    ("bit", "fact"),
    list(
        enumerate(
            (
                "platform_smt",
                "platform_tsme",
                "platform_ecc",
                "platform_rapl_off",
                "platform_ciphertext_hiding",
                "platform_alias_check",
                "platform_iommu_write_safe",
                "platform_tio",
            )
        )
    ),
)
def test_each_bit_of_the_platform_is_a_fact(bit: int, fact: str) -> None:
    """A bit of PLATFORM_INFO changes its own fact, and nothing else."""
    off, on = (facts(bundle(report(platform=value << bit))) for value in (0, 1))
    assert (off[fact], on[fact]) == ("no", "yes")
    assert {name for name in off if off[name] != on[name]} == {fact}


def test_debug_is_reported_and_not_a_failed_step() -> None:
    """A report of a guest that its host may debug is genuine, and says so: an appraisal always refuses it."""
    assert genuine(bundle(report(policy=0x3001F | 1 << 19))).debug
    assert not genuine(bundle()).debug


@pytest.mark.parametrize(
    ("field", "value", "fact"),
    [
        ("vmpl", 3, "3"),
        ("host_data", b"\x11" * 32, "11" * 32),
        ("family_id", b"\x12" * 16, "12" * 16),
        ("image_id", b"\x13" * 16, "13" * 16),
        ("id_key_digest", b"\x14" * 48, "14" * 48),
        ("author_key_digest", b"\x15" * 48, "15" * 48),
        ("report_id_ma", b"\x16" * 32, "16" * 32),
    ],
)
def test_each_further_field_is_a_fact(field: str, value: int | bytes, fact: str) -> None:
    """What host and guest's owner set at launch comes back under the name of the field, in hexadecimal."""
    usual = facts(bundle())
    found = facts(bundle(report(**{field: value})))  # type: ignore[arg-type]
    assert found[field] == fact
    assert {name for name in usual if usual[name] != found[name]} == {field}


def test_author_key_and_mitigations_are_facts() -> None:
    """AUTHOR_KEY_EN comes back; version 5 tells mitigations, in an order that is not mixed up."""
    assert facts(bundle(report(flags=1)))["author_key"] == "yes"
    assert facts(bundle())["author_key"] == "no"
    found = facts(bundle(report(version=5, launch_mitigations=0x3F, current_mitigations=2**64 - 1)))
    assert (found["launch_mitigations"], found["current_mitigations"]) == ("000000000000003f", "f" * 16)
    older = facts(bundle())
    assert (older["launch_mitigations"], older["current_mitigations"]) == ("none", "none")


@pytest.mark.parametrize(
    "changes",
    [
        {"committed_tcb": bytes.fromhex("03010000000008d0")},
        {"committed_firmware": bytes((28, 55, 1))},
        {"current_tcb": bytes.fromhex("03010000000009d1")},
    ],
    ids=maker.label,
)
def test_firmware_that_the_host_can_take_back_is_a_fact(changes: dict[str, Any]) -> None:
    """What runs but is not committed may be replaced by what is older."""
    assert facts(bundle())["provisional_firmware"] == "no"
    assert facts(bundle(report(**changes)))["provisional_firmware"] == "yes"


def test_all_evidence_has_the_same_facts() -> None:
    """One policy can have a rule for every fact, whichever product, version, key and container the evidence has."""
    claims = maker.claims_hash()
    others = [
        bundle(report(product, kind=kind), *der(usual_leaf(product, kind), revocation_list(issuer=f"ARK-{product}")))
        for product, kind in _KINDS
    ]
    others += [bundle(report(version=version)) for version in (2, 5)]
    others += [bundle(maker.container(report(report_data=claims)))]
    assert {tuple(facts(one)) for one in others} == {tuple(facts(bundle()))}


def test_a_whole_chain_may_come_along_in_any_form_and_order() -> None:
    """Leaf, authority, root and list: as files of DER or PEM, together or apart, or in the host's table."""
    known = authorities()
    parts = (usual_leaf(), known.ask, known.ark, revocation_list())
    expected = genuine(bundle(None, *der(*parts)))
    table = maker.table(list(zip(("vcek", "ask", "ark", "crl"), der(*parts), strict=True)), gap=3, padding_bytes=4096)
    pem_table = maker.table([("ark", pem(known.ark)), ("vcek", pem(usual_leaf()))])
    for endorsements in (
        der(*reversed(parts)),
        (pem(*parts[:3]), pem(parts[3])),
        (pem(known.ark), pem(known.ask, usual_leaf()), *der(parts[3])),
        (table,),
        (pem_table, *der(parts[3], known.ask)),
        (bytes(24), *der(*parts)),
    ):
        assert genuine(bundle(None, *endorsements)) == expected


def test_simulated_or_other_labels_are_refused() -> None:
    """Relabelling gains nothing, in either direction."""
    for tee in TeeType:
        if tee is not TeeType.SEV_SNP:
            assert refused(bundle(tee=tee)) == {"label": "tee_mismatch"}
    verifier: Verifier = SnpVerifier(roots())
    assert VerifierSet({TeeType.SEV_SNP: verifier}).verify(bundle(), NOW_MS) == genuine(bundle())


def test_a_stranger_with_amds_names_is_refused() -> None:
    """With the pins of AMD nothing of this AMD of the tests' own is believed, root included."""
    known = authorities()
    found = SnpVerifier().examine(bundle(None, *der(usual_leaf(), known.ask, known.ark)), NOW_MS)
    assert maker.failures(found) == {"chain": "chain_root"}
    found = SnpVerifier().examine(bundle(), NOW_MS)
    assert maker.failures(found) == {"chain": "chain_signature"}


def test_a_product_without_a_root_is_refused() -> None:
    """A verifier with the root of one product believes that product only."""
    verifier = SnpVerifier({TURIN: authorities(TURIN)})
    assert maker.failures(verifier.examine(bundle(), NOW_MS)) == {"chain": "chain_root"}


def test_a_root_that_is_not_the_pinned_one_is_refused() -> None:
    """Another certificate for the root's own name and key is not the root: the whole encoding is pinned."""
    again = authority("ARK-Milan", "ARK-Milan", "root", serial=99)
    assert refused(bundle(None, *der(usual_leaf(), again))) == {"chain": "chain_root"}
    other = authorities(GENOA)
    assert refused(bundle(None, *der(usual_leaf(), other.ark)))["chain"] == "chain_root"


def test_another_authority_by_the_pinned_root_is_believed() -> None:
    """AMD may issue its authorities anew; the root is what is pinned."""
    again = authority("SEV-Milan", "ARK-Milan", path_length=0, serial=77)
    assert genuine(bundle(None, *der(usual_leaf(), again)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signer": "authority"}, "chain_signature"),
        ({"issuer": "ARK-Genoa"}, "chain_issuer"),
        ({"subject": "SEV-Genoa"}, "chain_issuer"),
        ({"ca": False}, "chain_ca"),
        ({"signs": False}, "chain_usage"),
        ({"pss": False}, "chain_algorithm"),
        ({"algorithm": SHA256()}, "chain_algorithm"),
        ({"algorithm": SHA512()}, "chain_algorithm"),
    ],
    ids=maker.label,
)
def test_a_wrong_authority_is_refused(changes: dict[str, Any], reason: str) -> None:
    """Every property of an authority is required: signature, names, being one, and AMD's algorithms."""
    wrong = authority(**{"subject": "SEV-Milan", "issuer": "ARK-Milan", "path_length": 0, **changes})
    assert refused(bundle(None, *der(usual_leaf(), wrong))) == {"chain": reason}


def test_a_small_authority_key_is_refused() -> None:
    """AMD's authorities have RSA keys of 4096 bits; a smaller one is not AMD's."""
    wrong = authority("SEV-Milan", "ARK-Milan", "small", path_length=0)
    evidence = bundle(None, *der(leaf(signer=rsa_key("small")), wrong))
    assert refused(evidence) == {"chain": "chain_algorithm"}


def test_authorities_do_not_stand_in_for_each_other() -> None:
    """An ASK issues no VLEK, an ASVK no VCEK, and neither issues for another product, even with the same key."""
    known = authorities()
    assert refused(bundle(None, *der(usual_leaf(), known.asvk))) == {"chain": "chain_issuer"}
    vlek = usual_leaf(MILAN, "vlek")
    assert refused(bundle(report(kind="vlek"), *der(vlek, known.ask))) == {"chain": "chain_issuer"}
    assert refused(bundle(None, *der(usual_leaf(), authorities(GENOA).ask))) == {"chain": "chain_issuer"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signer": "root"}, "chain_signature"),
        ({"pss": False}, "chain_algorithm"),
        ({"algorithm": SHA256()}, "chain_algorithm"),
        (
            {"further": [(x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]},
            "chain_extension",
        ),
    ],
    ids=maker.label,
)
def test_a_wrong_leaf_is_refused(changes: dict[str, Any], reason: str) -> None:
    """A leaf is signed by its authority as AMD signs, and has no critical extension that nobody knows."""
    assert refused(bundle(None, *der(leaf(**changes)))) == {"chain": reason}


@pytest.mark.parametrize("part", ["leaf", "authority"])
def test_every_certificate_is_valid_at_the_given_time(part: str) -> None:
    """Each certificate is valid from its first millisecond to its last, and the first to end ends the endorsement."""
    window: dict[str, Any] = {"since": NOW, "until": NOW + timedelta(seconds=1)}
    parts = [leaf(**window)] if part == "leaf" else [usual_leaf(), authority("SEV-Milan", "ARK-Milan", **window)]
    evidence = bundle(None, *der(*parts))
    for now_ms in (NOW_MS, NOW_MS + 1000):
        assert examine(evidence, now_ms).genuine().endorsed_until_ms == NOW_MS + 1000
    assert refused(evidence, NOW_MS - 1) == {"validity": "not_yet_valid"}
    assert refused(evidence, NOW_MS + 1001) == {"validity": "expired"}


def test_an_expired_root_is_refused() -> None:
    """The root has a validity too."""
    evidence = bundle(None, *der(leaf(until=NOW + 900 * DAY)))
    assert refused(evidence, NOW_MS + 301 * 86_400_000) == {"validity": "expired"}


def test_a_list_that_came_along_is_checked() -> None:
    """The list of the root that revokes nothing of this chain passes; its date and its end are reported."""
    found = genuine(bundle(None, *der(usual_leaf(), revocation_list(1, 12, 99))))
    assert {str(fact.name): fact.value for fact in found.facts}["revocation"] == "checked"
    assert found.endorsed_since_ms == NOW_MS - 86_400_000
    older = revocation_list(since=NOW - 9 * DAY)
    assert genuine(bundle(None, *der(usual_leaf(), older, revocation_list()))).endorsed_since_ms == NOW_MS - 86_400_000
    assert genuine(bundle()).endorsed_since_ms is None
    assert found.endorsed_until_ms == NOW_MS + 10 * 86_400_000


def test_of_two_lists_the_first_to_end_ends() -> None:
    """AMD has one list for VCEKs and one for VLEKs; both may come along, both count, and the same one twice is one."""
    lists = revocation_list(), revocation_list(since=NOW - 9 * DAY, until=NOW + 2 * DAY)
    for pair in (lists, lists[::-1]):
        found = genuine(bundle(None, *der(usual_leaf(), *pair)))
        assert found.endorsed_until_ms == NOW_MS + 2 * 86_400_000
    assert refused(bundle(None, *der(usual_leaf(), lists[0], revocation_list(11))))["revocation"] == "revoked"


@pytest.mark.parametrize(
    ("serials", "changes", "reason"),
    [
        ([11], {}, "revoked"),
        ([10], {}, "revoked"),
        ([], {"issuer": "ARK-Genoa"}, "revocation_issuer"),
        ([], {"issuer": "SEV-Milan"}, "revocation_issuer"),
        ([], {"signer": "authority"}, "revocation_signature"),
        ([], {"algorithm": SHA256()}, "revocation_signature"),
        ([], {"since": NOW + DAY}, "revocation_stale"),
        ([], {"since": NOW - 9 * DAY, "until": NOW - DAY}, "revocation_stale"),
        ([], {"extensions": [(x509.DeltaCRLIndicator(1), True)]}, "revocation_extension"),
    ],
    ids=maker.label,
)
@pytest.mark.attack(6)
def test_a_list_that_revokes_or_is_not_good_is_refused(
    serials: list[int], changes: dict[str, Any], reason: str
) -> None:
    """A revoked authority or root, and a list that is another's, forged, old, early or partial, end it."""
    evidence = bundle(None, *der(usual_leaf(), revocation_list(*serials, **changes)))
    assert refused(evidence) == {"revocation": reason}


@pytest.mark.parametrize("product", [GENOA, TURIN])
def test_report_and_leaf_are_of_the_same_product(product: Product) -> None:
    """A report that names another product than its leaf is refused, though the leaf's key signed it."""
    assert refused(bundle(report(cpuid=bytes(maker.CPUID[product]))))["product"] == "product_mismatch"


def test_a_report_without_cpuid_has_the_product_of_its_leaf() -> None:
    """Version 2 tells no product: the leaf does, with its layout of the TCB version."""
    assert facts(bundle(report(version=2)))["product"] == "Milan"
    assert facts(bundle(report(GENOA, version=2), *der(usual_leaf(GENOA))))["product"] == "Genoa"


@pytest.mark.parametrize("field", ["current_tcb", "committed_tcb", "launch_tcb", "reported_tcb"])
@pytest.mark.parametrize("product", [MILAN, TURIN])
def test_reserved_bytes_of_each_tcb_version_are_zero(field: str, product: Product) -> None:
    """The reserved bytes lie elsewhere on Turin; each is required to be zero in each of the four versions."""
    reserved = range(4, 7) if product is TURIN else range(2, 6)
    for index in range(8):
        changed = bytearray(TCB[product])
        changed[index] += 1
        evidence = bundle(report(product, **{field: bytes(changed)}), *der(usual_leaf(product)))  # type: ignore[arg-type]
        reasons = maker.failures(examine(evidence))
        assert (reasons.get("product") == "report_reserved") == (index in reserved)


@pytest.mark.parametrize("flags", [0b10, 0b11100, 0b110, 0b11110])
def test_an_unsigned_report_is_refused(flags: int) -> None:
    """The host can have the processor sign nothing; such a report says so, and is refused even with a signature."""
    assert refused(bundle(report(flags=flags)))["signing_key"] == "unsigned"


def test_a_report_names_the_kind_of_its_key() -> None:
    """A report that says VLEK is not signed with a VCEK, nor the other way round."""
    assert refused(bundle(report(flags=4))) == {"signing_key": "signing_key_mismatch"}
    evidence = bundle(report(flags=0), *der(usual_leaf(MILAN, "vlek")))
    assert refused(evidence) == {"signing_key": "signing_key_mismatch"}


def test_a_report_by_another_key_is_refused() -> None:
    """A genuine chain beside a report that somebody else signed is not genuine."""
    assert refused(bundle(report(key=leaf_key(2)))) == {"signature": "signature"}
    assert refused(bundle(maker.report()[:0x2A0] + bytes(512))) == {"signature": "signature"}


def test_a_key_on_another_curve_is_refused() -> None:
    """The signing key is on P-384, whatever the authority certifies."""
    for key in (ec.derive_private_key(5, ec.SECP256R1()), ec.derive_private_key(5, ec.SECP521R1()), rsa_key("root")):
        assert refused(bundle(None, *der(leaf(key=key))))["leaf"] == "leaf_key"


@pytest.mark.attack(3)
def test_a_key_of_one_chip_speaks_for_that_chip_only() -> None:
    """Another chip's VCEK, or a report that hides its chip, is refused; a VLEK is for many chips."""
    for chip in (bytes(64), CHIP[GENOA]):
        assert refused(bundle(report(chip_id=chip))) == {"chip": "chip_mismatch"}
        assert genuine(bundle(report(kind="vlek", chip_id=chip), *der(usual_leaf(MILAN, "vlek"))))
    longer = report(TURIN, chip_id=CHIP[TURIN] + b"\1" + bytes(55))
    assert refused(bundle(longer, *der(usual_leaf(TURIN)))) == {"chip": "chip_mismatch"}


@pytest.mark.parametrize("product", Product)
@pytest.mark.attack(6)
def test_a_key_of_one_tcb_version_speaks_for_that_version_only(product: Product) -> None:
    """Each component of the leaf's version is compared, so an old key cannot report a new TCB, nor a new one an old."""
    reserved = range(4, 7) if product is TURIN else range(2, 6)
    for index in set(range(8)) - set(reserved):
        changed = bytearray(TCB[product])
        changed[index] -= 1
        evidence = bundle(report(product, reported_tcb=bytes(changed)), *der(usual_leaf(product)))
        assert refused(evidence) == {"tcb": "tcb_mismatch"}
        assert genuine(bundle(report(product, reported_tcb=bytes(changed)), *der(leaf(product, tcb=bytes(changed)))))


@pytest.mark.parametrize("index", [0, 1, 6, 7])
def test_nothing_reported_or_committed_is_newer_than_what_runs(index: int) -> None:
    """Component by component: firmware that reports more than it is was not AMD's."""
    older, newer = bytearray(TCB[MILAN]), bytearray(TCB[MILAN])
    older[index] -= 1
    newer[index] += 1
    assert refused(bundle(report(current_tcb=bytes(older), committed_tcb=bytes(older)))) == {"tcb": "tcb_order"}
    assert refused(bundle(report(committed_tcb=bytes(newer)))) == {"tcb": "tcb_order"}


def test_committed_firmware_is_not_newer_than_what_runs() -> None:
    """Versions are compared by major, minor and build, in this order, whatever the order of their bytes."""
    current = bytes((29, 55, 1))
    for build, minor, major in ((30, 55, 1), (0, 56, 1), (0, 0, 2)):
        changed = report(current_firmware=current, committed_firmware=bytes((build, minor, major)))
        assert refused(bundle(changed)) == {"tcb": "tcb_order"}
    for build, minor, major in ((28, 55, 1), (99, 54, 1), (99, 99, 0)):
        assert genuine(bundle(report(current_firmware=current, committed_firmware=bytes((build, minor, major)))))


def test_every_failed_step_is_named_and_what_needs_it_is_not_reached() -> None:
    """Without a leaf everything about the report alone is still judged, and the report of steps has no gap."""
    found = examine(msgspec.structs.replace(bundle(report(policy=0)), endorsements=()))
    assert maker.failures(found) == {"report": "report_policy", "endorsements": "leaf_missing"}
    assert [step.number for step in found.steps] == list(range(1, len(STEPS) + 2))
    with pytest.raises(EvidenceError) as caught:
        found.genuine()
    assert caught.value.reason == "report_policy"


def test_the_longest_names_and_numbers_fit_the_model() -> None:
    """Nothing that a genuine report can say is too long or too large to be reported."""
    provider = leaf(kind="vlek", changes={"5": maker.text("x" * 127)})
    high = {"current_tcb": bytes.fromhex("ffff00000000ffff"), "launch_tcb": bytes.fromhex("ffff00000000ffff")}
    data = report(kind="vlek", current_firmware=b"\xff" * 3, committed_firmware=b"\xff" * 3, **high)  # type: ignore[arg-type]
    assert facts(bundle(data, *der(provider)))["csp_id"] == "x" * 127
    assert tcb(bundle(data, *der(provider)))["firmware"] == 2**24 - 1
