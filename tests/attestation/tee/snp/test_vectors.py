"""Real reports of Milan, Genoa and Turin, and AMD's real certificates."""

import tomllib
from importlib.resources import files

import msgspec
import pytest
from cryptography import x509
from tests.attestation.tee.snp.maker import failures
from tests.attestation.tee.snp.public import (
    GENOA_TIME,
    VECTORS,
    certificates,
    date,
    file,
    genoa,
    needs_evidence,
)

from aigovtool.attestation.certificates import fingerprint
from aigovtool.attestation.examination import Examined
from aigovtool.attestation.model import Evidence, VerifiedEvidence
from aigovtool.attestation.tee.snp import authorities
from aigovtool.attestation.tee.snp.authorities import PINS, VENDOR
from aigovtool.attestation.tee.snp.endorsement_key import read_endorsement_key
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.verify import SnpVerifier
from aigovtool.attestation.tee.snp.wanted import wanted
from aigovtool.errors import ConfigurationError

_EXPECTED = {
    # measurement, report data from its start, host data from its start, reported TCB, guest SVN, chip id or none
    "milan_v3": (
        "5feee30d6d7e1a29f403d70a4198237ddfb13051a2d6976439487c609388ed7f98189887920ab2fa0096903a0c23fca1",
        "00" * 64,
        "4f4448c6",
        (4, 0, 0x18, 0xDB),
        2,
        "4ffb5cb4",
    ),
    "turin_v5": (
        "6d6c354511d6f7c6d7504668903dc5bdc066a048b651840d8d03fb85299ebfa142fccf1d1b0baca496841bdf243619d4",
        "00" * 64,
        "b3452a0e",
        (1, 1, 4, 0x51),
        2,
        "59790fb1c39f35c1" + "00" * 56,
    ),
    "milan_vlek": (
        "8922ebbdd00ec2c541f36a6e7a82a8773a7accb451ed67bc94e740dbe92c93c4e8c9af857f5ceeb5a493df2a570d7bf0",
        "819770b7",
        "00" * 32,
        (4, 0, 0x18, 0xD9),
        0,
        None,
    ),
    "milan_debug": ("b07af962", "0102030405" + "00" * 59, "00" * 32, (2, 0, 5, 0x44), 0, "3ac3fe21"),
    "milan_v2": ("a1f39304", "ec6c52d7", "00" * 32, (3, 0, 8, 0x73), 4, "c38427a3"),
    "azure": ("", "b3fbad65", "00" * 32, (3, 0, 8, 0x73), 5, "19752a44"),
}


def examine(evidence: Evidence, now_ms: int) -> Examined:
    return SnpVerifier().examine(evidence, now_ms)


def facts(found: VerifiedEvidence) -> dict[str, str]:
    return {str(fact.name): fact.value for fact in found.facts}


@needs_evidence
@pytest.mark.parametrize("chain", [True, False])
@pytest.mark.parametrize("name", VECTORS)
def test_real_reports_are_genuine(name: str, chain: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Each verifies with its leaf alone and with the whole chain, and says what its origin documents."""
    vector = VECTORS[name]
    measurement, report_data, host_data, levels, svn, chip = _EXPECTED[name]
    found = examine(vector.evidence(chain=chain), vector.now_ms).genuine()
    assert found.measurements[0].digest.startswith(measurement)
    assert found.report_data.hex().startswith(report_data)
    assert facts(found)["host_data"].startswith(host_data)
    tcb = {str(part.name): part.version for part in found.tcb.components}
    assert (tcb["bootloader"], tcb["tee"], tcb["snp"], tcb["microcode"], tcb["guest_svn"]) == (*levels, svn)
    assert tcb.get("fmc") == (1 if name == "turin_v5" else None)
    assert (found.chip_id or "").startswith(chip or "")
    assert (found.chip_id is None) == (chip is None)
    assert found.debug == (name == "milan_debug")
    assert facts(found)["product"] == ("Turin" if name == "turin_v5" else "Milan")
    assert facts(found)["paravisor"] == ("azure-hcl" if name == "azure" else "none")


@needs_evidence
def test_a_real_vlek_names_its_provider_and_the_level_of_its_guest() -> None:
    """An enclave of AWS runs at VMPL 1, which a policy may refuse; the time of the VLEK is over since."""
    vector = VECTORS["milan_vlek"]
    found = facts(examine(vector.evidence(), vector.now_ms).genuine())
    assert (found["signing_key"], found["csp_id"]) == ("vlek", "CN=cc-us-east-2.amazonaws.com")
    assert (found["vmpl"], found["policy_abi"], found["provisional_firmware"]) == ("1", "0.0", "yes")
    late = examine(vector.evidence(), int(date("2026-06-01").timestamp() * 1000))
    assert failures(late) == {"validity": "expired"}


@needs_evidence
def test_a_real_turin_report_tells_its_mitigations() -> None:
    """Version 5 has two vectors, and Turin a platform bit of its own."""
    vector = VECTORS["turin_v5"]
    found = facts(examine(vector.evidence(), vector.now_ms).genuine())
    assert found["launch_mitigations"] == found["current_mitigations"] == "000000000000003f"
    on = {name for name, value in found.items() if name.startswith("platform_") and value == "yes"}
    assert on == {"platform_smt", "platform_ecc", "platform_alias_check", "platform_iommu_write_safe"}


@needs_evidence
def test_the_table_of_a_real_genoa_is_read() -> None:
    """What configfs-tsm gives is verified as it is, with certificates in PEM inside the table."""
    found = examine(genoa(), int(GENOA_TIME.timestamp() * 1000)).genuine()
    assert found.measurements[0].digest.startswith("7699e6ac12ccdfd1dfac70e649ce1f046cb2afbb003438f4cdddfe2ccbe182fa")
    assert found.report_data == b"MIDBNH28iioisjPyxxxxxxxxxxxxxxxx" * 2
    assert [part.version for part in found.tcb.components][:4] == [10, 0, 0x17, 0x54]
    assert facts(found)["product"] == "Genoa"


@needs_evidence
@pytest.mark.parametrize("name", ["legacy", "new"])
def test_altered_real_leaves_are_refused(name: str) -> None:
    """Two certificates whose hardware id somebody changed are not signed by AMD."""
    evidence = msgspec.structs.replace(
        VECTORS["milan_v2"].evidence(), endorsements=(file(f"snp/trustee_test-vcek-invalid-{name}.der"),)
    )
    assert failures(examine(evidence, VECTORS["milan_v2"].now_ms))["chain"] == "chain_signature"


@needs_evidence
@pytest.mark.parametrize("first", VECTORS)
@pytest.mark.parametrize("second", VECTORS)
def test_a_real_report_with_the_chain_of_another_is_refused(first: str, second: str) -> None:
    """Leaves of other chips, TCB versions, kinds and products do not endorse it."""
    if first == second:
        return
    one, other = VECTORS[first], VECTORS[second]
    mixed = msgspec.structs.replace(one.evidence(), endorsements=other.evidence().endorsements)
    assert failures(examine(mixed, other.now_ms))["signature"] == "signature"
    leaf = one.evidence().endorsements[0]
    crossed = msgspec.structs.replace(one.evidence(), endorsements=(leaf, *other.evidence().endorsements[1:]))
    if one.chain != other.chain:
        assert set(failures(examine(crossed, one.now_ms))) == {"chain"}


@needs_evidence
def test_real_reports_want_amds_addresses() -> None:
    """The leaf of a real report has the address that its chip and TCB give."""
    base = "https://kdsintf.amd.com/vcek/v1"
    assert wanted(file(VECTORS["turin_v5"].data)) == (
        f"{base}/Turin/59790fb1c39f35c1?fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=81",
        f"{base}/Turin/cert_chain",
        f"{base}/Turin/crl",
    )
    milan = wanted(file(VECTORS["milan_v3"].data))[0]
    assert milan.startswith(f"{base}/Milan/4ffb5cb4")
    assert milan.endswith("?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219")
    assert len(wanted(file(VECTORS["azure"].data))) == 6


@needs_evidence
def test_a_further_real_turin_leaf_is_read() -> None:
    """A leaf without its report: product, chip and TCB."""
    key = read_endorsement_key(x509.load_der_x509_certificate(certificates("snp/virtee_turin_vcek.der")[0]))
    assert (key.product, key.hardware_id) == (Product.TURIN, bytes.fromhex("1e550a8ee5cf9f4d"))
    assert key.tcb == bytes(7) + b"\x09"


@needs_evidence
def test_two_independent_copies_of_amds_certificates_agree_with_ours() -> None:
    """The files of this package are those that two other projects trust."""
    for product, ours in VENDOR.items():
        suffix = product.lower()
        vcek = "_vcek" if product is Product.TURIN else ""
        pairs = [
            (f"gosev_ask_ark_{suffix}{vcek}.pem", [ours.ask, ours.ark]),
            (f"gosev_ask_ark_{suffix}_vlek.pem", [ours.asvk, ours.ark]),
            (f"ms_{suffix}_ark.pem", [ours.ark]),
            (f"ms_{suffix}_ask.pem", [ours.ask]),
        ]
        for name, expected in pairs:
            assert [x509.load_der_x509_certificate(one) for one in certificates(f"snp/{name}")] == expected


def test_pins_sources_and_files_agree() -> None:
    """Every trust anchor is named with where it is published, and its digest stands in code and in the list."""
    folder = files("aigovtool.attestation.tee.snp").joinpath("trust")
    sources = tomllib.loads(folder.joinpath("SOURCES.toml").read_text(encoding="utf-8"))
    assert {name: entry["sha256"] for name, entry in sources.items()} == dict(PINS)
    assert {entry["file"] for entry in sources.values()} | {"SOURCES.toml"} == {one.name for one in folder.iterdir()}
    for product, ours in VENDOR.items():
        for kind in ("ark", "ask", "asvk"):
            entry = sources[f"{kind}_{product.lower()}"]
            assert entry["sha256"] == fingerprint(getattr(ours, kind))
            service = "vlek" if kind == "asvk" else "vcek"
            assert entry["url"] == f"https://kdsintf.amd.com/{service}/v1/{product}/cert_chain"


def test_a_trust_anchor_that_is_not_the_pinned_one_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaces a file of this installation gets no verifier."""
    monkeypatch.setattr(authorities, "PINS", {**PINS, "ark_milan": PINS["ark_genoa"]})
    with pytest.raises(ConfigurationError) as caught:
        authorities._load("ark_milan")
    assert caught.value.reason == "trust_anchor"
