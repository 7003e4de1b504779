"""What `aigovtool enclave serve` has the enclave compute with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tests.cli.conftest import Place

from aigovtool.enclave import app
from aigovtool.enclave.app import EnclaveOptions


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], (None, 1)), (["--runs-at-once", "3"], (3, 1)), (["--threads-per-run", "8"], (None, 8))],
    ids=["usual", "runs", "threads"],
)
def test_as_many_runs_are_computed_at_once_and_by_as_many_threads_as_is_said(
    words: list[str], expected: tuple[int | None, int], lent: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the machine decides."""
    party = str(tmp_path / "clinic.json")
    added = lent.run("borrower", "add", f"clinic-{len(words) and words[1]}", "--out", party)
    assert added.exit_code == 0, added.stderr
    seen: list[EnclaveOptions] = []
    monkeypatch.setattr(app, "serve", lambda options, **_: seen.append(options))
    named = ["enclave", "serve", "--tee", "simulated", "--allow-simulated", "--borrower-file", party, "--model", "xray"]
    result = lent.run(*named, *words)
    assert result.exit_code == 0, result.stderr
    assert [(one.runs_at_once, one.threads_per_run) for one in seen] == [expected]


@pytest.mark.parametrize(
    "words", [[option, number] for option in ("--runs-at-once", "--threads-per-run") for number in ("0", "65")]
)
def test_what_is_no_number_of_runs_or_threads_is_refused(words: list[str], run: Callable[..., Result]) -> None:
    """With what may be said."""
    result = run("enclave", "serve", "--borrower-file", "x", "--model", "m", *words)
    assert result.exit_code == 2
    assert "1<=x<=64" in result.stderr
