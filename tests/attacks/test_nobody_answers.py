"""A host that lets connections in and never says a word: whoever waits for it is told so, soon."""

import json
import socket
import time
from pathlib import Path

import pytest
from tests.e2e.commandline import aigovtool
from tests.observations import Observed

#: What is promised to whoever wants to stop something, in seconds.
PROMISED_S = 15


@pytest.mark.fault(27)
def test_an_operator_who_meets_a_black_hole_knows_it_soon(tmp_path: Path, observed: Observed) -> None:
    """Nobody waits for a minute to learn that a stop went nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        url = f"https://127.0.0.1:{hole.getsockname()[1]}"
        aigovtool("custodian", "init", tmp_path / "custodian", "--url", url)
        since = time.monotonic()
        stopped = aigovtool("stop", "--all", "--json", operator=tmp_path / "custodian" / "operator.json", code=7)
        took = time.monotonic() - since
    assert observed.refusal(json.loads(stopped.stdout)["error"]) == "unreachable: no_answer"
    assert took < PROMISED_S
    observed.figure("seconds until an operator knows", round(took, 1))
