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
    [([], None), (["--runs-at-once", "3"], 3)],
    ids=["usual", "said"],
)
def test_as_many_runs_are_computed_at_once_as_is_said(
    words: list[str], expected: int | None, lent: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the machine decides."""
    party = str(tmp_path / "clinic.json")
    added = lent.run("borrower", "add", f"clinic-{len(words)}", "--out", party)
    assert added.exit_code == 0, added.stderr
    seen: list[EnclaveOptions] = []
    monkeypatch.setattr(app, "serve", lambda options, **_: seen.append(options))
    named = ["enclave", "serve", "--tee", "simulated", "--allow-simulated", "--borrower-file", party, "--model", "xray"]
    result = lent.run(*named, *words)
    assert result.exit_code == 0, result.stderr
    assert [one.runs_at_once for one in seen] == [expected]


@pytest.mark.parametrize("words", [["--runs-at-once", "0"], ["--runs-at-once", "65"]])
def test_what_is_no_number_of_runs_is_refused(words: list[str], run: Callable[..., Result]) -> None:
    """With what may be said."""
    result = run("enclave", "serve", "--borrower-file", "x", "--model", "m", *words)
    assert result.exit_code == 2
    assert "1<=x<=64" in result.stderr
