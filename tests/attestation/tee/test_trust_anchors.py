"""Trust anchors: what the package carries, what it says of where they are from, and what the specifications print."""

import re
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aigovtool.attestation.tee.intel.authentic import trusted
from aigovtool.attestation.tee.nitro.verify import pinned_roots
from aigovtool.attestation.tee.snp.authorities import PINS
from aigovtool.attestation.tee.tpm.endorsement import google_roots

ROOT = Path(__file__).resolve().parents[3]
FAMILIES = ("snp", "intel", "nitro", "tpm")


def carried(family: str) -> dict[str, str]:
    """Return the SHA-256 of the DER encoding of each certificate in the package, by file."""
    folder = ROOT / "src/aigovtool/attestation/tee" / family / "trust"
    found = {path.name: x509.load_pem_x509_certificates(path.read_bytes()) for path in folder.glob("*.pem")}
    assert all(len(certificates) == 1 for certificates in found.values())
    return {name: sha256(one.public_bytes(Encoding.DER)).hexdigest() for name, (one,) in found.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_specification_prints_the_digest_of_every_anchor(family: str) -> None:
    """A reader compares them with the vendor's without looking into the code."""
    text = (ROOT / "docs/spec/attestation" / f"{family}.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.pem)` \|[^|]*\| `([0-9a-f]{64})` \|$", text, re.MULTILINE)
    assert dict(rows) == carried(family)
    assert len(rows) == len(carried(family)) > 0
    assert f"`src/aigovtool/attestation/tee/{family}/trust/SOURCES.toml`" in text


@pytest.mark.parametrize("family", FAMILIES)
def test_the_list_of_sources_has_the_digest_of_every_anchor(family: str) -> None:
    """Whence each is, and that it is the one which is there."""
    path = ROOT / "src/aigovtool/attestation/tee" / family / "trust/SOURCES.toml"
    listed = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = [entry for found in listed.values() for entry in (found if isinstance(found, list) else [found])]
    assert {entry["file"]: entry["sha256"] for entry in entries} == carried(family)
    assert all(entry["url"].startswith("http") for entry in entries)


def test_the_code_believes_these_and_no_others() -> None:
    """What the verifiers pin is what is printed."""
    assert {f"{name}.pem": digest for name, digest in PINS.items()} == carried("snp")
    assert {trusted(None).fingerprint} == set(carried("intel").values())
    assert pinned_roots() == set(carried("nitro").values())
    assert {sha256(one.public_bytes(Encoding.DER)).hexdigest() for one in google_roots()} == set(
        carried("tpm").values()
    )
