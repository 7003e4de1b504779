"""The published vectors: they are what is made, our verifiers give each its verdict, and the runner notices others."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conformance.runner import Choice, jobs, main, run
from conformance.suite import Expected, Vector
from conformance.verdicts import Answer, command, differences, in_process

from conformance import suite

ROOT = Path(__file__).resolve().parents[2]
OWN = list(suite.self_made())
FOLDER = suite.evidence_folder()
needs_evidence = pytest.mark.skipif(
    FOLDER is None, reason="AIGOVTOOL_EVIDENCE_DIR is not set: no public vector of the conformance suite was checked"
)
TELLS = (
    "import json, sys; from pathlib import Path; "
    "Path({place!r}).joinpath('seen').write_text(json.dumps(sys.argv[1:])); "
    "print({document!r}); sys.exit({code})"
)


def verifier(place: Path, document: str, code: int) -> list[str]:
    """Return the command of a pretended verifier, which answers the same to everything."""
    return [sys.executable, "-c", TELLS.format(place=str(place), document=document, code=code)]


def vector(name: str) -> Vector:
    return next(one for one in OWN if one.name == name)


@pytest.mark.parametrize("tee", suite.TEES)
def test_our_verifiers_give_each_vector_its_verdict(tee: str) -> None:
    """Genuine or not, for which reason, what it says, and acceptable or not: all as the suite says."""
    chosen = list(jobs(Choice(public=False, only=[tee])))
    assert len(chosen) > 70
    assert {one.name: wrong for one, wrong in run(in_process, chosen, reasons=True) if wrong} == {}


def test_a_second_run_makes_the_same_files() -> None:
    """Keys are fixed and signatures deterministic, so that anybody can make the vectors and see no difference."""
    done = subprocess.run(
        [sys.executable, "-m", "conformance.make", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_suite_is_small_and_whole() -> None:
    """No file is large, all of them together are below 2 MB, and no file is there that no vector uses."""
    there = {path for path in suite.VECTORS.rglob("*") if path.is_file()}
    assert max(path.stat().st_size for path in there) <= 200_000
    assert sum(path.stat().st_size for path in there) < 2_000_000
    used = {name for one in OWN for name in (one.data, *one.endorsements, *one.roots, *filter(None, [one.policy]))}
    assert {path.relative_to(suite.VECTORS).as_posix() for path in there} == used | {
        f"{tee}.json" for tee in suite.TEES
    }


def test_every_vector_has_a_name_and_says_what_it_shows() -> None:
    """Names are unique for each TEE; verdicts are complete: no reason for what is genuine, one for what is not."""
    everything = [*OWN, *suite.read_public().vectors]
    assert max(Counter((one.tee, one.name) for one in everything).values()) == 1
    for one in everything:
        said = one.expected
        assert one.title
        assert said.genuine is (said.reason is None), one.name
        assert (said.acceptable is not None) is (one.policy is not None and said.genuine), one.name
        assert (said.refused is not None) is (said.acceptable is False), one.name


#: Who asks the verifier that the label names can never see `tee_mismatch`; sizes are of files that would be large.
NEVER = {"tee_mismatch", "certificate_too_large", "document_too_large", "envelope_too_large"}
WITHOUT_VECTOR = {
    "snp": {
        "certificate_encoding": "of certificates in a table or in PEM; of others it is endorsement_unknown",
        "chain_length": "three certificates are always within what AMD's authorities allow",
    },
    "nitro": {},
    "tpm": {"activation": "no verifier of the suite has asked for a secret", "chain_length": "no chain is so long"},
    "intel": {
        "quote_not_genuine": "the library's own objections, which no evidence raises that passes the steps before",
        "verdict_inconsistent": "a mistake of the library",
        "certificate_encoding": "within collateral, where it is collateral_encoding or chain_length first",
    },
}


@pytest.mark.parametrize("family", WITHOUT_VECTOR)
def test_every_reason_of_a_step_has_a_vector(family: str) -> None:
    """Of the reasons that a specification lists for steps of verification, each is some vector's, or named above."""
    text = (ROOT / "docs" / "spec" / "attestation" / f"{family}.md").read_text("utf-8")
    words = {word for index, word in enumerate(text.split("`")) if index % 2}
    folder = ROOT / "src" / "aigovtool" / "attestation" / "tee" / family
    code = [path.read_text("utf-8") for path in (*folder.glob("*.py"), folder.parents[1] / "certificates.py")]
    raised = {part.split('"')[0] for part in "\n".join(code).split('reason="')[1:]}
    of_others = ("answer_", "bundle_", "credential", "log_", "pcs_")  # readers of files and of vendors' answers
    raised = {word for word in raised if not word.startswith(of_others)}
    tees = {"snp": {"sev-snp"}, "intel": {"tdx", "sgx"}}.get(family, {family})
    shown = {one.expected.reason for one in OWN if one.tee in tees}
    assert words & raised - shown - NEVER <= set(WITHOUT_VECTOR[family])


@pytest.mark.parametrize("tee", suite.TEES)
def test_every_step_of_every_verifier_is_what_refuses_some_vector(tee: str) -> None:
    """A verifier that leaves out any one step believes a vector that is refused by that step alone."""
    steps: set[str] = set()
    alone: set[str] = set()
    for one, folder in jobs(Choice(public=False, only=[tee])):
        made = in_process(one, folder).document["steps"]
        failed = {step["name"] for step in made if step["outcome"] == "failed"}
        steps |= {step["name"] for step in made}
        alone |= failed if len(failed) == 1 else set()
    # Whom the label names is asked, so no label is wrong; what is in range fits the model; Intel's rules judge
    # attributes of a TD again; a chip is written only into what a custodian of ours certifies for a TPM's key.
    other = {"label", "contents", "attributes"} | ({"chip"} if tee == "tpm" else set())
    assert steps - alone <= other


def test_every_status_of_intels_has_a_vector() -> None:
    """Each status of a TCB is shown, genuine and judged by a policy, but the one that is refused."""
    for tee in ("tdx", "sgx"):
        shown = {one.expected.says.get("facts", {}).get("tcb_status") for one in OWN if one.tee == tee}
        assert len(shown - {None}) == 6
        assert any(one.tee == tee and one.expected.reason == "tcb_revoked" for one in OWN)


# -- The runner ---------------------------------------------------------------------------------------------


def test_a_verifier_is_asked_as_the_contract_says(tmp_path: Path) -> None:
    """One file with everything, the time in milliseconds, roots and policy as files; the answer is what comes back."""
    one = vector("policy-guest-bit-16")
    answer = command(verifier(tmp_path, '{"genuine": true, "acceptable": false}', 5))(one, suite.VECTORS)
    assert answer == Answer(5, {"genuine": True, "acceptable": False})
    assert differences(one.expected, answer, reasons=False) == []
    file, *rest = json.loads((tmp_path / "seen").read_text())
    assert Path(file).name == "evidence.json"
    assert rest[:2] == ["--at", str(one.at_ms)]
    assert rest[-3:] == ["--policy", str(suite.VECTORS / one.policy), "--json"]  # type: ignore[operator]
    assert rest.count("--root") == 3


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ('{"genuine": true}', 0),
        ('{"genuine": true}', 5),
        ('{"genuine": false}', 0),
        ('{"genuine": false}', 1),
        ('{"genuine": 0}', 5),
        ("{}", 5),
        ("no JSON", 5),
        ("[]", 5),
    ],
)
def test_another_verdict_and_no_answer_are_differences(tmp_path: Path, document: str, code: int) -> None:
    """What is not genuine must be said in the document and by the exit code; an error is no refusal."""
    one = vector("key-stranger")
    assert differences(one.expected, command(verifier(tmp_path, document, code))(one, suite.VECTORS), reasons=False)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (Expected(genuine=False, reason="expired"), {"genuine": False, "reason": "signature"}),
        (Expected(genuine=False, reason="x"), {"genuine": False, "reason": "x", "steps": [{"reason": "internal"}]}),
        (
            Expected(genuine=True, acceptable=False, refused="tcb"),
            {"genuine": True, "acceptable": False, "refused": "x"},
        ),
        (Expected(genuine=True, acceptable=False, refused="tcb"), {"genuine": True, "acceptable": None}),
        (Expected(genuine=True, acceptable=True), {"genuine": True}),
        (Expected(genuine=True, says={"facts": {"a": "1"}}), {"genuine": True, "says": {"facts": {"a": "2"}}}),
        (Expected(genuine=True, says={"facts": {"a": "1..."}}), {"genuine": True, "says": {"facts": {"a": "2"}}}),
        (Expected(genuine=True, says={"debug": True}), {"genuine": True}),
    ],
)
def test_other_words_are_differences_where_words_count(expected: Expected, told: dict[str, Any]) -> None:
    """Reasons, checks and contents are compared for our own verifier."""
    code = 0 if expected.genuine and expected.acceptable is not False else 5
    assert differences(expected, Answer(code, told), reasons=True)


def test_the_runner_ends_with_1_if_a_verdict_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verifier that believes everything fails the suite, and the table says where."""
    believes = " ".join(f"'{word}'" if " " in word else word for word in verifier(tmp_path, '{"genuine": true}', 0)[:1])
    script = tmp_path / "believes.py"
    script.write_text('print(\'{"genuine": true, "acceptable": true}\')')
    arguments = ["--command", f"{believes} {script}", "--no-public", "--only", "nitro", "--name", "signature-root"]
    assert main(arguments) == 1
    assert "DIFFERS  nitro    signature-root" in capsys.readouterr().out
    assert main(["--command", f"{believes} {script}", "--no-public", "--only", "nitro", "--name", "genuine-order"]) == 0


def test_our_command_line_keeps_the_contract() -> None:
    """The default of the runner is the command itself: an own process for each vector, and the same verdicts."""
    assert main(["--no-public", "--name", "policy-accepted"]) == 0
    assert main(["--no-public", "--only", "sev-snp", "--name", "policy-debug"]) == 0


@pytest.mark.fault(26)
def test_the_suite_means_the_same_without_assertions() -> None:
    """Under `python -O` no assertion is made; no verdict depends on one, nor does the refusal of changed bytes."""
    command_line = ["-O", "-m", "conformance", "--in-process", "--no-public", "--mutations", "600"]
    done = subprocess.run([sys.executable, *command_line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 of 600 single changed bytes refused" in done.stdout


# -- Public vectors -----------------------------------------------------------------------------------------


def test_the_manifest_names_every_file_and_where_it_is_from() -> None:
    """Each file of a public vector has a digest and an origin; the files themselves are not here."""
    public = suite.read_public()
    used = {name for one in public.vectors for name in (one.data, *one.endorsements, *one.roots)}
    used |= {one.event_log for one in public.vectors if one.event_log is not None}
    folders = {name.rsplit("/", 1)[0] for name in public.files}
    assert used <= {*public.files, *folders}
    assert {file.origin for file in public.files.values()} == set(public.origins)
    for file in public.files.values():
        assert len(file.sha256) == 64
    for origin in public.origins.values():
        assert origin.repository == "none" or len(origin.commit) == 40


@needs_evidence
def test_the_public_files_are_those_of_the_manifest() -> None:
    """By their SHA-256, so that a verdict is about these bytes."""
    assert FOLDER is not None
    assert suite.wrong_files(suite.read_public(), FOLDER) == []


@needs_evidence
def test_our_verifiers_give_each_public_vector_its_verdict() -> None:
    """Evidence of real machines, with vendors' own roots."""
    chosen = [job for job in jobs(Choice()) if job[1] != suite.VECTORS]
    assert len(chosen) == len(suite.read_public().vectors)
    assert {one.name: wrong for one, wrong in run(in_process, chosen, reasons=True) if wrong} == {}


def test_a_file_that_is_another_is_named(tmp_path: Path) -> None:
    """A verdict on other bytes than those of the manifest would say nothing."""
    public = suite.read_public()
    name = next(iter(public.files))
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"another")
    assert suite.wrong_files(public, tmp_path) == list(public.files)
