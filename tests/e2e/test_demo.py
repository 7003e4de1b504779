"""The demo is the first end-to-end test: every step of the story holds, with separate processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
def test_demo_plays_the_whole_story(tmp_path: Path) -> None:
    """`aigovtool demo --json` ends with 0 and one summary whose three counts agree."""
    played = subprocess.run(
        [sys.executable, "-m", "aigovtool", "demo", "--json"],
        capture_output=True,
        timeout=570,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert played.returncode == 0, played.stderr.decode()[-2000:]
    summary = json.loads(played.stdout)
    assert summary["ok"] is True
    assert summary["answers"] == 14
    assert summary["ledger_used"] == summary["enclave_used"] == summary["receipts"] == 14
    assert summary["refused_402"] == 21
    assert summary["refused_423"] == 1
    assert list(tmp_path.iterdir()) == []
