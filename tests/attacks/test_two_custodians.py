"""A second custodian on the ledger of one that serves: it does not start, by whatever name it comes to the file."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.attacks.lent import MODEL, Lent
from tests.observations import Observed


def directory_of(kind: str, served: Path, place: Path) -> Path:
    """Return the directory that is served, or a copy of it in which the ledger is the same file by another name."""
    if kind == "served":
        return served
    copied = place / "custodian"
    shutil.copytree(served, copied, ignore=shutil.ignore_patterns("ledger.db*"))
    os.link(served / "ledger.db", copied / "ledger.db")
    return copied


@pytest.mark.attack(22)
@pytest.mark.parametrize("kind", ["served", "linked"])
def test_a_second_custodian_on_one_ledger_does_not_start(
    kind: str, standing: Lent, tmp_path: Path, observed: Observed
) -> None:
    """Each would grant what the other granted. The first one serves on, and grants what it has."""
    directory = directory_of(kind, standing.path("custodian"), tmp_path)
    second = subprocess.run(
        standing.words("custodian", "serve", directory, "--listen", "127.0.0.1:0", "--json"),
        cwd=tmp_path,
        env=standing.environment(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    problem = json.loads(second.stderr or second.stdout)
    told = problem.get("error", problem)
    assert (second.returncode, told["code"], told["reason"]) == (2, "configuration", "database_locked")
    observed.refusal(told)
    standing.run("budget", "grant", 1, "--model", MODEL)
