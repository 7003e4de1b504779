"""The examples run, word by word, and say what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.product_process import environment

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SAYS = {
    "read_a_digit.py": [
        r"the command line reads (\w+); 9 units left",
        r"the SDK reads \w+ \(\d+%\), then \w+, \w+",
        r"it is \w+; 8 units left",
    ],
    "risk_score.py": [
        r"the model takes X, FP32, \[-1, 30\]",
        r"169 patients asked for; 9\d% as they turned out",
        r"a patient is a unit: 821 of 1000 are left",
    ],
    "hospital.py": [
        r"radiology: refused \(budget_exhausted\); nothing was charged",
        r"surgery is not concerned: 49 units left",
        r"alice reads: radiology asks for",
        r"radiology: approved, 5 units by alice",
        r"radiology: an answer again, \d units left",
        r"surgery: .*stopped",
        r"the log of \d+ entries verifies",
        r"radiology: 4 answers",
        r"surgery: 1 answers",
    ],
}


def test_each_example_is_tried() -> None:
    """None is left out, and the table of the folder names them all."""
    found = {path.name for path in EXAMPLES.glob("*.py")} - {"on_one_machine.py"}
    assert found == SAYS.keys()
    assert all(name in (EXAMPLES / "README.md").read_text(encoding="utf-8") for name in found)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    """By itself, from any folder, and it leaves nothing there."""
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for pattern in SAYS[name]:
        assert re.search(pattern, ran.stdout), ran.stdout
    assert list(tmp_path.iterdir()) == []
