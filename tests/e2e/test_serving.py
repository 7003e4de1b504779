"""What serves says where, to programs too: with port 0 nobody else could know."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.commandline import aigovtool
from tests.e2e.world import free_port
from tests.product_process import environment

_SIMULATED = ("--tee", "simulated", "--allow-simulated")


@contextmanager
def announced(home: Path, *words: object) -> Iterator[dict[str, Any]]:
    """Run a verb that serves, with --json, and yield its document; it ends in good order."""
    command = [sys.executable, "-m", "aigovtool", *map(str, words), "--json"]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment())
    assert process.stdout is not None
    with process.stdout as printed:
        text = ""
        while not text.endswith("}\n") or text.count("{") > text.count("}"):
            line = printed.readline().decode()
            assert line, (home / "log").read_text()
            text += line
        try:
            yield json.loads(text)
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_custodian_and_enclave_say_where_they_serve(tmp_path: Path, digits_model: bytes) -> None:
    """The enclave with its instance and models, on one line: it may boot anew, and says so again."""
    home, model = tmp_path / "custodian", tmp_path / "digits.aigov"
    operator, borrower = home / "operator.json", tmp_path / "hospital.json"
    (tmp_path / "digits.onnx").write_bytes(digits_model)
    url = f"https://127.0.0.1:{free_port()}"
    aigovtool("custodian", "init", home, "--allow-simulated", "--url", url)
    with announced(tmp_path, "custodian", "serve", home) as served:
        assert served == {"url": url}
        aigovtool("borrower", "add", "hospital", "-o", borrower, operator=operator)
        aigovtool("model", "seal", tmp_path / "digits.onnx", "--name", "digits", "-o", model, operator=operator)
        aigovtool("model", "add", model, "--borrower", "hospital", operator=operator)
        words = ("--borrower-file", borrower, "--model", "digits", "--model", "ct", "--cache", tmp_path / "cache")
        with announced(tmp_path, "enclave", "serve", *_SIMULATED, *words, "--listen", "127.0.0.1:0") as enclave:
            (shown,) = json.loads(aigovtool("enclaves", "--json", operator=operator).stdout)["enclaves"]
            (lent,) = json.loads(aigovtool("model", "list", "--json", operator=operator).stdout)["models"]
    assert (enclave["instance"], enclave["tee"], enclave["simulated"]) == (shown["instance"], "simulated", True)
    assert enclave["models"] == {"digits": lent["manifest"]}
    assert [(one["model"], one["code"]) for one in enclave["not_served"]] == [("ct", "not_found")]
    assert not enclave["url"].endswith(":0")
