"""The demo is the first end-to-end test: every step of the story holds, with separate processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.e2e.world import free_port, wait_for


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


@pytest.mark.timeout(600)
def test_a_demo_that_stays_can_be_asked_as_it_says(tmp_path: Path) -> None:
    """The commands that it prints, typed in another terminal; Ctrl-C ends all of it, in good order."""
    port = free_port()
    with (tmp_path / "told").open("wb") as told:
        playing = subprocess.Popen(
            [sys.executable, "-m", "aigovtool", "demo", "--stay", "--keep", "files"],
            stdout=told,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        wait_for(
            lambda: b"Ctrl-C ends" in (tmp_path / "told").read_bytes() or playing.poll() is not None, "it stays", 300
        )
        assert playing.poll() is None, (tmp_path / "told").read_text()
        lines = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
        connect = next(words[words.index("connect") :] for words in lines if "connect" in words and "--home" in words)
        infer = next(words[words.index("infer") :] for words in reversed(lines) if "infer" in words)
        (curl,) = [words for words in lines if words[:1] == ["curl"]]
        aigovtool = [sys.executable, "-m", "aigovtool"]
        command = [*aigovtool, *connect, "--listen", f"127.0.0.1:{port}"]
        with (tmp_path / "gateway").open("wb") as log, subprocess.Popen(command, cwd=tmp_path, stdout=log) as gateway:
            try:
                wait_for(lambda: str(port).encode() in (tmp_path / "gateway").read_bytes(), "the gateway serves")
                question = (tmp_path / curl[-1].removeprefix("@")).read_bytes()
                answer = httpx.post(curl[1].replace("8000", str(port)), content=question, timeout=60)
                assert answer.json()["outputs"][0]["data"] == [7]
            finally:
                gateway.terminate()
        once = subprocess.run([*aigovtool, *infer, "--json"], cwd=tmp_path, capture_output=True, check=False)
        assert once.returncode == 0, (once.stdout, once.stderr)
        assert json.loads(once.stdout)["units_remaining"] > 1_000
    finally:
        playing.send_signal(signal.SIGINT)
        assert playing.wait(60) == 0
    assert b"Every step held" in (tmp_path / "told").read_bytes()
