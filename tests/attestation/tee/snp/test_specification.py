"""The specification of this family names what the code does: steps, reasons, facts, components."""

import re
from pathlib import Path

from tests.attestation.tee.snp.maker import TURIN, bundle, der, examine, report, usual_leaf

from aigovtool.attestation.tee.snp.table import Content
from aigovtool.attestation.tee.snp.verify import STEPS

ROOT = Path(__file__).resolve().parents[4]
SPECIFICATION = (ROOT / "docs" / "spec" / "attestation" / "snp.md").read_text(encoding="utf-8")
SOURCES = [path.read_text(encoding="utf-8") for path in (ROOT / "src/aigovtool/attestation/tee/snp").glob("*.py")]


def section(number: int) -> str:
    return SPECIFICATION.split(f"\n## {number}. ")[1].split("\n## ")[0]


def test_steps_are_those_of_the_specification() -> None:
    """Section 4 lists the steps in their order."""
    assert re.findall(r"^\| \d+ \| `(\w+)` \|", section(4), re.MULTILINE) == [str(step.name) for step in STEPS]


def test_every_reason_of_this_package_is_in_the_specification() -> None:
    """A reason that a program may meet is written down, and nothing is written down that cannot happen."""
    used = {reason for source in SOURCES for reason in re.findall(r'reason="(\w+)"', source)}
    used |= {reason for source in SOURCES for reason in re.findall(r'"(report_\w+)"', source)} - {"report_id_ma"}
    documented = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"\|([^|]*)\|$", section(4), re.MULTILINE))))
    elsewhere = {one for one in documented if one.startswith(("chain_", "revocation_", "certificate_"))}
    assert used - {"trust_anchor", "chip_masked", "answer_other", "bad_root"} <= documented
    assert documented - used - elsewhere == {"not_yet_valid", "expired", "revoked"}


def test_every_fact_and_component_is_in_the_specification() -> None:
    """Section 5 names all that is reported."""
    found = examine(bundle(report(TURIN, version=5), *der(usual_leaf(TURIN)))).genuine()
    names = {str(fact.name) for fact in found.facts}
    rows = section(5).split("| fact | value |")[1]
    assert {
        name for row in re.findall(r"^\| ((?:`\w+` ?)+)\|", rows, re.MULTILINE) for name in re.findall(r"\w+", row)
    } == names
    for part in found.tcb.components:
        assert f"`{part.name.removeprefix('launch_')}`" in section(5)


def test_contents_of_the_table_are_in_the_specification() -> None:
    """Section 3 has a GUID for each kind of content."""
    assert len(re.findall(r"^\| `[0-9a-f-]{36}` \|", section(3), re.MULTILINE)) == len(Content)
