"""The program in docs/sdk.md runs, word by word, against a real custodian and a real enclave."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.party_files import consumer_file
from tests.e2e.world import MakeWorld

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"


def program() -> str:
    [found] = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_program_of_the_guide_gets_an_answer(make_world: MakeWorld) -> None:
    """Only the port is another; it prints the model, a label and what is left, and saves the receipt."""
    world = make_world(budget=5)
    consumer_file(world)
    text = program()
    assert "127.0.0.1:8443" in text
    ran = subprocess.run(
        [sys.executable, "-c", text.replace("127.0.0.1:8443", f"127.0.0.1:{world.enclave_port}")],
        cwd=world.directory,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    model, answer = ran.stdout.splitlines()
    assert re.fullmatch(r"digits sha256:[0-9a-f]{64} X \(-1, 64\)", model)
    assert re.fullmatch(r"\[[0-9]\] 4", answer)
    assert (world.directory / "receipt.json").stat().st_mode & 0o777 == 0o600
