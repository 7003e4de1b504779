"""The campaigns about evidence: they find what they are for, and mean the same everywhere."""

import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from assurance.campaigns import evidence_fuzz, evidence_mutations
from conformance.malformed import anew, bundles, der, edits, fuzz, mutations, structured
from conformance.malformed.bundles import Bundle, load_bundles
from fuzz.__main__ import main as search
from fuzz.frames import framed, unframed
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.attestation.examination import Examined, StepOutcome, StepReport
from aigovtool.attestation.model import Evidence, Label, TeeType
from conformance import suite

ROOT = Path(__file__).resolve().parents[2]
OWN = [one for one in load_bundles() if one is not None and not one.public]


def named(name: str) -> Bundle:
    return next(one for one in OWN if one.name == name)


class Believer:
    """A verifier that believes whatever does not end in a zero byte, and fails on the rest."""

    def __init__(self, bundle: Bundle) -> None:
        self.genuine = bundle.verifier.examine(
            Evidence(tee=bundle.tee, data=bundle.parts[0], endorsements=bundle.parts[1:]), bundle.at_ms
        )

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:  # noqa: ARG002 - a verifier's signature
        return self.genuine if evidence.data[-1:] != b"\0" else Examined((), None)


def deceived(bundle: Bundle) -> Bundle:
    return Bundle(bundle.name, bundle.tee, bundle.parts, Believer(bundle), bundle.at_ms, bundle.public)


@pytest.fixture
def one_believer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    believer = (deceived(named("nitro genuine")),)
    monkeypatch.setattr(fuzz, "load_bundles", lambda: believer)
    fuzz._known.cache_clear()
    yield
    fuzz._known.cache_clear()


def test_there_are_genuine_bundles_of_every_kind() -> None:
    """Each begins as genuine evidence, so that each refusal is of the change."""
    assert Counter(one.tee for one in OWN).keys() == {TeeType(tee) for tee in suite.TEES}
    for one in OWN:
        found = one.judge(one.parts)
        assert found is not None
        assert found.verified is not None, one.name


def test_255_rounds_change_each_byte_to_every_other_value() -> None:
    """A seed is a few neighbouring bytes; seeds together are all bytes of all bundles, once in each round."""
    bundle = named("sev-snp genuine-milan-vcek")
    size = sum(map(len, bundle.parts))
    a_round = -(-size // mutations.CHUNK)
    seen = [change for seed in range(a_round) for change in mutations.of_seed((bundle,), seed)]
    assert len({(change.part, change.at) for change in seen}) == len(seen) == size
    for position in (0, 700, size - 1):
        flips = {mutations.located(bundle, position, turn).flip for turn in range(255)}
        assert flips == set(range(1, 256))


def test_seeds_mean_the_same_without_the_public_bundles() -> None:
    """What is not here is left out and shifts nothing, so a seed that failed elsewhere fails here."""
    bundle = named("nitro genuine")
    assert list(mutations.of_seed((bundle, None), 0)) == list(mutations.of_seed((bundle, bundle), 0))
    assert list(mutations.of_seed((bundle, None), 1)) == []
    public = sum(one.expected.genuine and one.policy is None for one in suite.read_public().vectors)
    assert len(load_bundles()) == len(OWN) + public


def test_a_byte_that_is_believed_or_fails_the_verifier_is_reported() -> None:
    """The search would notice a verifier that notices nothing, and one that refuses without a step."""
    bundle = deceived(named("nitro genuine"))
    last = len(bundle.parts[0]) - 1
    zero = mutations.Change(bundle, 0, last, bundle.parts[0][last])
    other = mutations.Change(bundle, 0, 0, 1)
    counts, wrong = mutations.play([zero, other])
    assert (counts["changes"], counts["refused"]) == (2, 0)
    assert [one.split(":")[0] for one in wrong] == ["refused without a reason", "accepted"]


def test_a_step_that_failed_by_itself_is_reported() -> None:
    """The reason `internal` is a mistake of ours, though the evidence was refused."""
    failed = StepOutcome.FAILED
    report = StepReport(number=1, name=Label("a"), title="", source="", outcome=failed, reason="internal", detail="")
    assert bundles.broken(Examined((report,), None)) == "internal"


@pytest.mark.attack(7, 9)
def test_a_few_seeds_of_each_campaign_find_nothing() -> None:
    """The short form of both: every change refused by a step. Memory is measured in a process of its own, below."""
    for campaign, seeds in ((evidence_mutations.CAMPAIGN, [0, 7, 20, 33]), (evidence_fuzz.CAMPAIGN, [1, 2, 3])):
        for figures in campaign.run(seeds, float("inf")):
            assert figures.violations == []
            assert figures.count("refused") == figures.count(campaign.target.counted)
            assert campaign.figure(figures)
    assert "slowest" in evidence_fuzz.CAMPAIGN.replay(1)
    assert "changed by" in evidence_mutations.CAMPAIGN.replay(0)


@pytest.mark.usefixtures("one_believer")
def test_the_fuzzer_reports_what_is_believed() -> None:
    """A verifier that believes malformed evidence is found out within a seed."""
    wrong = [one.split(":")[0] for seed in range(3) for one in fuzz.play(seed).wrong]
    assert {"accepted", "refused without a reason"} <= set(wrong)


def test_the_fuzzer_reports_a_verifier_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception is a failure of the verifier, whatever it is."""

    def breaks(*_: Any, **__: Any) -> None:
        raise RecursionError

    monkeypatch.setattr(fuzz, "_judged", breaks)
    assert all(one.startswith("raised RecursionError") for one in fuzz.play(5).wrong)
    assert fuzz.play(5).wrong


def test_a_seed_makes_the_same_inputs_every_time() -> None:
    """What failed once can be looked at."""
    assert fuzz.play(11).counts == fuzz.play(11).counts
    bundle = named("tdx genuine-events")
    assert fuzz.malformed(bundle, Random(3)) == fuzz.malformed(bundle, Random(3))


def test_what_is_put_together_anew_is_not_malformed() -> None:
    """Other order, more zeros, fewer registers: everything in it is as it was; one other byte, and it is not."""
    tdx, tpm, snp = named("tdx genuine-events"), named("tpm genuine-ecdsa"), named("sev-snp genuine-pem")
    assert fuzz.well_formed(tdx.tee, (tdx.parts[0] + bytes(9), *reversed(tdx.parts[1:])))
    fewer = tdx.parts[2].replace(tdx.parts[2][tdx.parts[2].index(b',{"register"') : -2], b"")
    assert fuzz.well_formed(tdx.tee, (tdx.parts[0], fewer))
    assert fuzz.well_formed(snp.tee, snp.parts)
    for bundle in (tdx, tpm, snp):
        for at, part in enumerate(bundle.parts):
            other = part[:300] + bytes([part[300] ^ 1]) + part[301:]
            assert not fuzz.well_formed(bundle.tee, (*bundle.parts[:at], other, *bundle.parts[at + 1 :]))


@pytest.mark.parametrize("tee", list(suite.TEES))
def test_evidence_that_is_signed_anew_passes_its_signatures(tee: str) -> None:
    """It reaches readers of signed contents: some of it is genuine, and some is refused behind the signatures."""
    who, at_ms = anew.verifier(TeeType(tee))
    ends = set()
    for seed in range(60):
        data, *endorsements = anew.signed_anew(TeeType(tee), Random(seed))
        found = who.examine(Evidence(tee=TeeType(tee), data=data, endorsements=tuple(endorsements)), at_ms)
        ends.add(next((str(step.name) for step in found.steps if step.outcome is StepOutcome.FAILED), "genuine"))
    assert len(ends) >= 3, ends


@given(data=st.binary(max_size=300), seed=st.integers(0, 2**32))
def test_edits_take_any_bytes(data: bytes, seed: int) -> None:
    """An edit of what an edit has made is an edit."""
    for start in (b"", b"0\x82", b"{", b"-----BEGIN X-----\n", b"\x84"):
        structured.edit(start + data, Random(seed))
    edits.edit(data, Random(seed))
    der.edit(data, Random(seed))


def test_edits_take_what_edits_have_made() -> None:
    """A search goes on from its own inputs for hours: whatever became of them, they can be edited again."""
    for bundle in OWN[::5]:
        for part in bundle.parts:
            chance, data = Random(part[-9:]), part
            for _ in range(150):
                data = structured.edit(data, chance)[:8_000]


def test_elements_are_written_as_they_were_read() -> None:
    """What is not edited keeps its bytes, to the depths of a certificate."""
    certificate = named("sev-snp genuine-milan-vcek").parts[1]
    nodes = der.read(certificate)
    assert nodes is not None
    assert b"".join(node.written() for node in nodes) == certificate
    assert sum(len(node.all()) for node in nodes) > 50
    for bad in (b"\x30", b"\x30\x05\x00", b"\x1f\x01\x00", b"\x30\x80\x00\x00", b"\x30\x85\x00\x00\x00\x00\x00"):
        assert der.read(bad) is None


def test_most_edits_of_a_certificate_keep_its_outer_lengths() -> None:
    """What is wrong lies inside, where a reader comes only if all around it is right."""
    certificate = named("sev-snp genuine-milan-vcek").parts[1]
    whole = [der.read(der.edit(certificate, Random(seed))) for seed in range(100)]
    assert sum(nodes is not None and len(nodes) == 1 for nodes in whole) > 50


@given(parts=st.lists(st.binary(max_size=50), max_size=5), data=st.binary(max_size=50))
def test_an_input_of_the_coverage_guided_search_is_parts(parts: list[bytes], data: bytes) -> None:
    """Any bytes are some parts, and parts come back."""
    assert unframed(framed(parts)) == tuple(parts)
    assert isinstance(unframed(data), tuple)


def test_the_coverage_guided_search_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its library, which nothing else needs, it ends with a sentence."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert search(["tdx"]) == 2
    assert "make fuzz" in capsys.readouterr().err


def test_a_campaign_runs_without_assertions() -> None:
    """Under `python -O` both campaigns play a seed and find nothing: no refusal depends on an assertion."""
    code = (
        "from assurance.campaigns import evidence_fuzz as f, evidence_mutations as m\n"
        "for one in (f.CAMPAIGN, m.CAMPAIGN):\n"
        "    (found,) = one.run([4], float('inf'))\n"
        "    print(one.name, one.broken(found), found.count('refused') == found.count(one.target.counted) > 30)\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["evidence-fuzz [] True", "evidence-mutations [] True"], done.stderr
