"""Genuine evidence of machines that nobody should lend to, and evidence that is almost genuine: from the command line.

The vectors of the conformance suite have one defect each, signed by keys that are for tests only. One process of the
product answers `aigovtool evidence verify` for each of them, one after the other.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conformance.suite import Vector
from conformance.verdicts import NO, Answer, arguments, differences
from tests.e2e.commandline import aigovtool
from tests.observations import Observed
from tests.product_process import environment

from conformance import suite

_MANY = """
import contextlib, io, json, sys
from aigovtool.cli import main
for line in sys.stdin:
    sys.argv = ["aigovtool", "evidence", "verify", *json.loads(line)]
    said, code = io.StringIO(), None
    with contextlib.redirect_stdout(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, json.loads(said.getvalue())]), flush=True)
"""


@dataclass
class CommandLine:
    """The product's command line, started once."""

    process: subprocess.Popen[str]
    folder: Path

    def verify(self, vector: Vector) -> Answer:
        """Judge a vector's evidence by its roots and policy, as of its time."""
        file = self.folder / "evidence.json"
        file.write_bytes(suite.bundle(vector, suite.VECTORS))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(arguments(vector, suite.VECTORS, file)) + "\n")
        self.process.stdin.flush()
        code, document = json.loads(self.process.stdout.readline())
        return Answer(code, document)


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """One process for all vectors."""
    with subprocess.Popen(
        [sys.executable, "-c", _MANY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        yield CommandLine(process, tmp_path_factory.mktemp("vectors"))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def refused(command_line: CommandLine, observed: Observed, *beginnings: str) -> Counter[str]:
    """Have all vectors refused whose names begin so, each for its own defect, and return how many for which."""
    counts: Counter[str] = Counter()
    for vector in suite.self_made():
        said = vector.expected
        if vector.name.startswith(beginnings) and not (said.genuine and said.acceptable is not False):
            answer = command_line.verify(vector)
            assert (vector.name, answer.code, differences(said, answer, reasons=True)) == (vector.name, NO, [])
            if said.genuine:
                counts[observed.refusal({"code": "evidence_unacceptable", "reason": said.refused})] += 1
            else:  # there are too many ways not to be genuine for a table
                counts[f"evidence_not_genuine: {said.reason}"] += 1
    observed.figure("vectors", counts.total())
    return counts


@pytest.mark.attack(5)
@pytest.mark.fault(21)
def test_each_weakening_bit_of_a_guest_is_refused_alone(command_line: CommandLine, observed: Observed) -> None:
    """Debugging, migration, threads that share a core, old interfaces, unknown bits: of guests, TDs, enclaves, keys."""
    bits = ("policy-guest", "policy-platform", "policy-td-bit", "policy-flag", "policy-debug", "policy-vmpl")
    counts = refused(command_line, observed, *bits, "report-policy-bit", "report-platform-bit", "debug", "key-bit")
    assert counts["evidence_unacceptable: debug"] >= 4
    assert counts["evidence_unacceptable: facts"] >= 24
    assert counts.total() >= 50


@pytest.mark.attack(6)
@pytest.mark.fault(23)
def test_old_firmware_and_old_words_about_it_are_refused(command_line: CommandLine, observed: Observed) -> None:
    """Statuses and advisories that nobody accepted, versions below the least, collateral of long ago, revoked keys."""
    names = (
        "policy-status",
        "policy-advisory",
        "policy-collateral",
        "policy-evaluation",
        "policy-qe",
        "policy-firmware",
    )
    counts = refused(
        command_line, observed, *names, "policy-launch-tcb", "policy-guest-svn", "tcb-", "revocation", "time-"
    )
    for check in ("tcb", "facts", "advisories", "collateral_age"):
        assert counts[f"evidence_unacceptable: {check}"] > 0, counts
    assert counts["evidence_not_genuine: tcb_revoked"] > 0, counts
    observed.refusal({"code": "evidence_not_genuine", "reason": "tcb_revoked"})


@pytest.mark.attack(7)
def test_bent_signatures_and_chains_are_refused(command_line: CommandLine, observed: Observed) -> None:
    """Keys of strangers, other curves, zeros, encodings, certificates left out, added, swapped or issued anew."""
    counts = refused(command_line, observed, "signature", "chain", "key-", "leaf-")
    assert counts.total() > 150
    assert len(counts) > 15
    observed.figure("reasons", len(counts))


@pytest.mark.attack(3)
def test_another_genuine_machine_is_refused_where_machines_are_listed(
    command_line: CommandLine, observed: Observed
) -> None:
    """Of every kind of TEE that names its chip; and real evidence, where some is at hand, by a list of other chips."""
    counts = refused(command_line, observed, "policy-chip")
    assert counts == {"evidence_unacceptable: chip": 4}
    if (public := suite.evidence_folder()) is not None:
        report, leaf = public / "snp/ms_milan_attestation_report.bin", public / "snp/ms_milan_vcek.pem"
        chip = report.read_bytes()[0x1A0:0x1E0].hex()
        words = (report, "--tee", "sev-snp", "--endorsements", leaf, "--at", "2026-06-01")
        listed = {one: judged_by_chips(words, command_line.folder, one) for one in (chip, "c1" * 64)}
        # The draft demands a revocation list, which is not there: with its own chip that is what is left.
        assert listed == {chip: ["facts"], "c1" * 64: ["chip", "facts"]}
        observed.figure("of real machines", 1)


def judged_by_chips(words: tuple[object, ...], folder: Path, chip: str) -> list[str]:
    """Draft a policy from evidence, list one chip in it, and return which checks refuse the evidence by it."""
    policy = folder / f"{chip[:8]}.json"
    aigovtool("appraisal", "draft", *words, "-o", policy)
    document = json.loads(policy.read_text(encoding="utf-8"))
    document["accepted"][0]["chips"] = [chip]
    policy.write_text(json.dumps(document), encoding="utf-8")
    told = json.loads(aigovtool("evidence", "verify", *words, "--policy", policy, "--json", code=NO).stdout)
    return [check["name"] for check in told["checks"] if check["outcome"] == "failed"]
