"""Looking at a ledger that is served disturbs nobody: typed as its operator types it."""

import json
import re
from pathlib import Path

from tests.e2e.commandline import aigovtool, serving
from tests.e2e.world import free_port


def test_a_served_ledger_is_looked_at_and_stays_one_custodians_alone(tmp_path: Path) -> None:
    """Who holds it is said, nothing is opened, and a second custodian is refused afterwards as before."""
    home, log = tmp_path / "custodian", tmp_path / "serve.log"
    aigovtool("custodian", "init", home, "--url", f"https://localhost:{free_port()}")
    with serving(home, log):
        told = json.loads(aigovtool("doctor", home, "--json").stdout)["checks"]
        found = {check["name"]: check for check in told}
        assert re.search(r"held by process [1-9][0-9]*$", found["ledger"]["found"])
        assert (found["journal"]["standing"], found["journal"]["found"].startswith("WAL")) == ("ok", True)
        second = aigovtool("custodian", "serve", home, "--listen", "127.0.0.1:0", code=2)
        assert "database_locked" in second.stderr
        aigovtool("usage", operator=home / "operator.json")
