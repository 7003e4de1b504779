"""The runner of the conformance suite: whom it asks, what it says of a difference, and when it cannot ask at all."""

import importlib.util
import io
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from conformance.__main__ import main as start
from conformance.runner import Choice, NothingAskedError, jobs, main, progress_on
from conformance.suite import Expected
from conformance.verdicts import Answer, command, differences

from conformance import suite

#: A few vectors that are quickly asked about.
FEW = ["--no-public", "--only", "nitro", "--name", "signature-root"]


@pytest.fixture
def believes(tmp_path: Path) -> str:
    """Return the command of a verifier that believes everything."""
    script = tmp_path / "believes.py"
    script.write_text('print(\'{"genuine": true, "acceptable": true}\')')
    return shlex.join([sys.executable, str(script)])


@pytest.mark.parametrize(
    ("given", "said"),
    [("", "is empty"), ("  ", "is empty"), ("no-such-program --fast", "no program"), ("'", "no comm")],
)
def test_a_command_that_names_nobody_is_refused(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter whose variable was empty must not have AIGovTool tested in its place, and pass."""
    assert main(["--command", given, *FEW]) == 2
    out, err = capsys.readouterr()
    assert (out, said in err, err.count("\n")) == ("", True, 1)


def test_a_program_that_cannot_be_started_gives_no_answer(tmp_path: Path) -> None:
    """It may vanish while it is asked; the others are asked about all the same."""
    one, folder = next(jobs(Choice(public=False)))
    answer = command([str(tmp_path / "gone")])(one, folder)
    assert differences(one.expected, answer, reasons=False) == ["no answer: No such file or directory"]


def test_another_verifier_is_not_asked_in_this_process() -> None:
    """`--in-process` is AIGovTool alone; with a command beside it, one of the two would be left out silently."""
    with pytest.raises(SystemExit, match="2"):
        main(["--in-process", "--command", sys.executable, *FEW])


def test_no_answer_is_counted_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verifier that knows one TEE only is told apart from one that is wrong; neither passes."""
    script = tmp_path / "silent.py"
    script.write_text("raise SystemExit(2)")
    assert main(["--command", shlex.join([sys.executable, str(script)]), *FEW]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("SILENT") and line.endswith("no answer: exit code 2") for line in lines)
    _, _, _, _, _, differ, silent = next(line.split() for line in lines if line.startswith("nitro"))
    assert (differ, int(silent) > 0) == ("0", True)


def test_a_verdict_that_differs_is_counted_by_itself(believes: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It was an answer, and the wrong one: what was expected stands beside what came."""
    assert main(["--command", believes, *FEW]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(
        "genuine: expected no (" in line and "), got yes; exit code: expected 5, got 0" in line for line in lines
    )
    assert [line.split()[-1] for line in lines if line.startswith(("nitro", "all"))] == ["0", "0"]


@pytest.mark.parametrize(
    ("expected", "answer", "said"),
    [
        (Expected(genuine=True), Answer(5, {"genuine": False, "reason": "x"}), "genuine: expected yes, got no (x)"),
        (
            Expected(genuine=True, acceptable=False, refused="tcb"),
            Answer(5, {"genuine": True}),
            "acceptable: expected no, got nothing",
        ),
        (
            Expected(genuine=False, reason="expired"),
            Answer(5, {"genuine": False, "reason": "signature"}),
            "reason: expected expired, got signature",
        ),
        (
            Expected(genuine=True, acceptable=False, refused="tcb"),
            Answer(5, {"genuine": True, "acceptable": False, "refused": "chip"}),
            "refused: expected tcb, got chip",
        ),
        (
            Expected(genuine=True, says={"facts": {"a": "1..."}}),
            Answer(0, {"genuine": True, "says": {"facts": {"a": "2"}}}),
            "says.facts.a: expected '1...', got '2'",
        ),
    ],
)
def test_a_difference_says_what_was_expected_and_what_came(expected: Expected, answer: Answer, said: str) -> None:
    """Whoever reads it needs neither the vector nor a second run."""
    assert said in differences(expected, answer, reasons=True)


def test_vectors_with_a_policy_can_be_left_out(believes: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The policies are AIGovTool's own; a verifier that has none is asked about everything else."""
    every, without = (list(jobs(Choice(public=False, policy=policy))) for policy in (True, False))
    assert [one for one, _ in every if one.policy is None] == [one for one, _ in without]
    assert len(without) < len(every)
    assert main(["--command", believes, "--no-public", "--no-policy", "--name", "policy-accepted"]) == 2
    assert capsys.readouterr().err.startswith("no such vector")


# -- Public vectors -----------------------------------------------------------------------------------------


def test_a_wrong_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many files, and the first of them; of those alone that were asked about."""
    monkeypatch.setenv("AIGOVTOOL_EVIDENCE_DIR", str(tmp_path))
    assert main(["--in-process", "--only", "nitro"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    first = next(name for name in suite.read_public().files if name.startswith("nitro/"))
    assert f"are missing or not those of public.json, the first: {first}" in err


def test_files_that_are_published_nowhere_are_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who has all that others publish can ask about it; what is left out is said."""
    monkeypatch.setenv("AIGOVTOOL_EVIDENCE_DIR", str(tmp_path))
    assert list(jobs(Choice(name="swtpm_vm_"))) == []
    assert main(["--in-process", "--name", "swtpm_vm_"]) == 2
    assert "no such vector" in capsys.readouterr().err
    assert main(["--in-process", "--name", "real-boot-direct"]) == 2
    (tmp_path / "tpm/swtpm_vm_direct").mkdir(parents=True)
    (tmp_path / "tpm/swtpm_vm_direct/q.sig").write_bytes(b"another")
    with pytest.raises(NothingAskedError, match="swtpm_vm_direct"):
        list(jobs(Choice(name="swtpm_vm_direct")))


def test_public_vectors_are_found_by_the_names_of_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--name swtpm` means the files of which the README speaks; of our own vectors several share a file."""
    manifest = suite.read_public()
    found = [one for one in manifest.vectors if Choice(name="swtpm").has(one, public=True)]
    assert len(found) == sum("swtpm" in one.data for one in manifest.vectors) > 0
    assert not any(Choice(name="swtpm").has(one, public=False) for one in manifest.vectors)
    monkeypatch.delenv("AIGOVTOOL_EVIDENCE_DIR", raising=False)
    assert list(jobs(Choice(name="swtpm"))) == []


def test_where_no_public_file_is_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that only public vectors have is not simply unknown."""
    monkeypatch.delenv("AIGOVTOOL_EVIDENCE_DIR", raising=False)
    assert main(["--in-process", "--name", "swtpm"]) == 2
    assert "AIGOVTOOL_EVIDENCE_DIR is not set" in capsys.readouterr().err


# -- What it needs, and how far it is ---------------------------------------------------------------------


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    found = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name == missing else found(name, *rest)

    for place in ("conformance.__main__", "conformance.runner"):
        monkeypatch.setattr(f"{place}.find_spec", find)


def test_without_its_library_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence with the way out instead of a traceback."""
    without(monkeypatch, "msgspec")
    assert start() == 2
    assert "pip install msgspec" in capsys.readouterr().err


def test_without_aigovtool_another_verifier_can_be_asked(
    believes: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The suite's own vectors need nothing of it."""
    without(monkeypatch, "aigovtool")
    assert main(["--command", believes, "--no-public", "--only", "nitro", "--name", "genuine-order"]) == 0
    assert main(FEW) == 2
    assert "AIGovTool is not installed" in capsys.readouterr().err


class Terminal(io.StringIO):
    """A stream that is one."""

    def isatty(self) -> bool:
        return True


def test_it_says_how_far_it_is() -> None:
    """One line that changes on a terminal, and is gone at the end; elsewhere one for every hundred vectors."""
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        tell = progress_on(stream)
        for done in range(1, 251):
            tell(done, 250)
    assert terminal.getvalue().startswith("\r1 of 250 vectors\r2 of 250")
    assert terminal.getvalue().endswith("\r249 of 250 vectors\r\x1b[K")
    assert "\n" not in terminal.getvalue()
    assert file.getvalue() == "100 of 250 vectors\n200 of 250 vectors\n"
