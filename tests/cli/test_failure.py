import json
import stat
from collections.abc import Callable
from errno import EACCES, ECHILD, ENOSPC
from pathlib import Path

import click
import pytest
from click.testing import Result
from tests.cli.conftest import Place

from aigovtool.cli.failure import EXIT_CODES, tell
from aigovtool.cli.screen import Screen
from aigovtool.errors import (
    AIGovToolError,
    BudgetExhaustedError,
    ConfigurationError,
    ForbiddenError,
    LogError,
    NotFoundError,
    UnreachableError,
)

SECRET = "prompt-5be1"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), 2),
        (NotFoundError("x"), 3),
        (ForbiddenError("x"), 4),
        (LogError("x"), 5),
        (BudgetExhaustedError("x"), 6),
        (UnreachableError("x"), 7),
        (click.UsageError("x"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1),
        (OSError(ENOSPC, "No space left on device"), 7),
        (PermissionError(EACCES, "Permission denied", "ledger.db"), 7),
        (OSError(ECHILD, "No child processes"), 1),
    ],
)
def test_the_exit_code_names_the_stage_that_failed(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is in the documented table."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert tell(error, Screen(json=False)) == code
    assert code in EXIT_CODES


def test_every_class_of_error_has_a_documented_exit_code() -> None:
    """A new class cannot bring an exit code that nobody documented."""
    waiting: list[type[AIGovToolError]] = [AIGovToolError]
    while waiting:
        kind = waiting.pop()
        assert kind.exit_code in EXIT_CODES
        waiting += kind.__subclasses__()


def test_an_error_says_what_happened_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, each on its own line, without anything that a terminal would obey."""
    tell(ForbiddenError("no\x1b[2J way", reason="wrong_role", fix="ask\nAlice"), Screen(json=False))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["error: no?[2J way", "why:   wrong_role", "fix:   ask?Alice"]


def test_a_program_gets_one_document_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a failure."""
    tell(BudgetExhaustedError("no units", reason="pool_empty", retry_after_s=3), Screen(json=True))
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "error": {
            "code": "budget_exhausted",
            "message": "no units",
            "reason": "pool_empty",
            "fix": None,
            "retry_after_s": 3,
            "exit_code": 6,
        }
    }


def test_a_bug_shows_an_id_and_a_log_but_no_traceback_and_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text of an exception may quote a prompt or a key; the log has its type and where it was raised."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=SECRET) as raised:
        int(SECRET)
    assert tell(raised.value, Screen(json=False)) == 1
    _, err = capsys.readouterr()
    log = tmp_path / "aigovtool" / "errors.log"
    assert str(log) in err
    assert "Traceback" not in err
    text = log.read_text(encoding="utf-8")
    assert "ValueError" in text
    assert "test_failure.py" in text
    error_id = text.split("error=")[1].split()[0]
    assert error_id in err
    assert SECRET not in err + text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_bug_is_told_even_when_it_cannot_be_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log's directory is a file."""
    (tmp_path / "aigovtool").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert tell(RuntimeError(SECRET), Screen(json=False)) == 1
    assert "could not be logged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["budget", "grant"],
        ["budget", "grant", "--model", "xray", "0"],
        ["budget", "grant", "--model", "xray", "--window", "year", "5"],
        ["custodian", "serve", "x", "--listen", "nowhere"],
        ["custodian", "serve", "x", "--listen", "host:65536"],
        ["model", "add", "x.aigov", "--dial", "loose", "--borrower", "b"],
        ["enclave", "serve", "--tee", "sev", "--borrower-file", "x", "--model", "m"],
    ],
)
def test_wrong_usage_is_refused_for_people_and_programs(run: Callable[..., Result], arguments: list[str]) -> None:
    """Exit code 2, and where to read on."""
    shown, document = run(*arguments), run(*arguments, "--json")
    assert (shown.exit_code, document.exit_code) == (2, 2)
    assert shown.stdout == ""
    assert "--help" in shown.stderr
    assert json.loads(document.stdout)["error"]["code"] == "usage"


def test_the_choices_of_an_option_are_told_on_one_line(run: Callable[..., Result]) -> None:
    """Line ends and tabs are no text, and would be shown as question marks."""
    result = run("reference-values", "add", "x", "--origin", "y")
    assert "Choose from: sev-snp, tdx," in result.stderr
    assert "?" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["usage"], ["budget", "show"], ["stop", "--all"], ["audit", "export", "-o", "x.jsonl"], ["operator", "list"]],
)
def test_without_an_operator_file_it_says_how_to_name_one(
    run: Callable[..., Result], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first thing that a new operator meets."""
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "AIGOVTOOL_OPERATOR" in result.stderr
    assert "no_operator_file" in result.stderr


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"party":"operator"}', b"[" * 5000])
def test_a_file_that_is_no_party_file_is_refused_with_its_name(
    run: Callable[..., Result], tmp_path: Path, content: bytes
) -> None:
    """Whatever is in it."""
    path = tmp_path / "operator.json"
    path.write_bytes(content)
    path.chmod(0o600)
    result = run("usage", "--operator", str(path))
    assert result.exit_code == 2
    assert "bad_party_file" in result.stderr
    assert str(path) in result.stderr


def test_a_party_file_that_others_can_read_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    """It holds a private key; the fix is a command."""
    path = tmp_path / "operator.json"
    path.write_bytes(b"{}")
    path.chmod(0o644)
    result = run("usage", "--operator", str(path))
    assert result.exit_code == 2
    assert f"chmod 600 {path}" in result.stderr


@pytest.mark.parametrize(
    "reason",
    ["cannot_bind", "chain_root", "leaf_missing", "missing_key_file", "model_exists", "not_enrolled", "wrong_key"],
)
def test_a_refusal_without_advice_gets_that_of_the_command_line(
    reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A role does not know the verbs; advice that it gives itself stands."""
    tell(ForbiddenError("no", reason=reason), Screen(json=False))
    assert "fix:   " in capsys.readouterr().err
    tell(ForbiddenError("no", reason=reason, fix="theirs"), Screen(json=False))
    assert "fix:   theirs" in capsys.readouterr().err


def test_advice_of_the_sdk_is_told_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    """`allow_simulated=True` can be typed nowhere on a command line."""
    tell(ForbiddenError("no", fix="pass allow_simulated=True, or the same request_id"), Screen(json=False))
    assert "fix:   add --allow-simulated, or the same --request-id" in capsys.readouterr().err


def test_a_package_that_is_not_installed_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    """The extra that brings it is named; a module of ours that is missing is a bug."""
    assert tell(ModuleNotFoundError("x", name="numpy.lib"), Screen(json=False)) == 2
    err = capsys.readouterr().err
    assert "numpy is not installed" in err
    assert "extra consumer" in err


def test_a_wrong_kind_of_party_file_is_named(lent: Place) -> None:
    """Which kind it is, which is wanted, and which verb writes it."""
    for verb, file, is_, wanted in (
        (["usage", "--operator"], "radiology.json", "a consumer file", "an operator file"),
        (
            ["budget", "own", "--credential"],
            str(lent.operator),
            "an operator file",
            "a consumer file or a borrower file",
        ),
        (["enclave", "serve", "--model", "xray", "--borrower-file"], "radiology.json", "a consumer", "a borrower file"),
    ):
        result = lent.run(*verb, lent.file(file))
        assert (result.exit_code, "wrong_party_file" in result.stderr) == (2, True), result.stderr
        assert f"is {is_}" in result.stderr
        assert f"here {wanted} is needed" in result.stderr
        assert "add` writes one" in result.stderr


def test_a_directory_without_a_custodian_is_told(run: Callable[..., Result], tmp_path: Path) -> None:
    """With the verb that makes one."""
    for verb in ("serve", "show"):
        result = run("custodian", verb, str(tmp_path))
        assert result.exit_code == 2
        assert f"aigovtool custodian init {tmp_path}" in result.stderr


@pytest.mark.parametrize("arguments", [["-5"], ["--window", "day", "-1.5"], ["abc"], ["0"], ["1e3"], ["1" * 14]])
def test_what_is_no_number_of_units_is_told_as_such(run: Callable[..., Result], arguments: list[str]) -> None:
    """Also a negative one, which looks like an option."""
    result = run("budget", "grant", "--model", "xray", *arguments)
    assert result.exit_code == 2
    assert f"{arguments[-1]} is no number of units" in result.stderr.replace("'", "")


def test_an_option_that_is_misspelt_is_still_an_option(run: Callable[..., Result]) -> None:
    """Only numbers are taken for units."""
    assert "No such option" in run("budget", "grant", "--model", "xray", "-x", "5").stderr


@pytest.mark.parametrize(("words", "like"), [(["conect"], "connect"), (["budget", "aprove"], "approve")])
def test_a_verb_that_is_misspelt_is_told_what_it_is_like(
    run: Callable[..., Result], words: list[str], like: str
) -> None:
    """Of the verbs themselves, which are loaded when they are used, and of those of a noun."""
    assert f"Did you mean '{like}'?" in run(*words).stderr
