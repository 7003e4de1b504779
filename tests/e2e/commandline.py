"""The command line as a user runs it: a process of its own, and a custodian that it serves."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.world import wait_for
from tests.product_process import environment


def aigovtool(
    *arguments: object, operator: Path | None = None, code: int = 0, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a verb, which must end with `code`; one that would serve must not, and is ended when the time is over."""
    words = [str(argument) for argument in arguments] + ([] if operator is None else ["--operator", str(operator)])
    command = [sys.executable, "-m", "aigovtool", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=timeout_s)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def exported(operator: Path, folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the entries of one kind from the whole log as it is exported, after it was verified offline."""
    number = len(list(folder.glob("log*.jsonl")))
    out = folder / f"log{number}.jsonl"
    aigovtool("audit", "export", "-o", out, operator=operator)
    aigovtool("audit", "verify", out, operator=operator)
    bodies = [json.loads(line)["entry"]["body"] for line in out.read_text(encoding="utf-8").splitlines()[1:]]
    return [body for body in bodies if body["kind"] == kind]


@contextmanager
def serving(directory: Path, log: Path) -> Iterator[None]:
    """Serve the custodian in `directory`, and end it in an orderly way."""
    command = [sys.executable, "-m", "aigovtool", "custodian", "serve", str(directory)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment())
    try:
        wait_for(lambda: "serving on" in log.read_text() or process.poll() is not None, "the custodian serves")
        yield
    finally:
        process.terminate()
        process.wait(20)
