"""A custodian's certificate ends, and is renewed while it serves: typed as its operator types it."""

import json
import time
from pathlib import Path

from tests.e2e.commandline import aigovtool, serving
from tests.e2e.world import free_port, wait_for

from aigovtool.crypto.keyfile import read_tls_key, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.x509 import from_pem, issue_server_certificate, to_pem

DAY_MS = 86_400_000


def test_a_certificate_that_ended_is_renewed_while_the_custodian_serves(tmp_path: Path) -> None:
    """Everybody is told what is wrong and what mends it; the running custodian takes the new one up by itself."""
    home, log = tmp_path / "custodian", tmp_path / "serve.log"
    aigovtool("custodian", "init", home, "--url", f"https://localhost:{free_port()}")
    operator, keys, now_ms = home / "operator.json", home / "keys", time.time_ns() // 1_000_000
    ended = issue_server_certificate(
        read_tls_key(keys / "tls-ca.key"),
        from_pem((keys / "tls-ca.pem").read_bytes())[0],
        read_tls_key(keys / "tls.key"),
        ["localhost"],
        not_before_ms=now_ms - 366 * DAY_MS,
        not_after_ms=now_ms - DAY_MS,
    )
    write_secret_file(keys / "tls.pem", Secret(to_pem(ended)), replace=True)
    with serving(home, log):
        assert f"nobody can connect; renew it: aigovtool custodian certificate {home} --renew" in log.read_text()
        wait_for(lambda: "tls_certificate_ends" in log.read_text(), "the custodian logs it too")
        refused = aigovtool("usage", operator=operator, code=7)
        assert "tls_expired" in refused.stderr
        assert "aigovtool custodian certificate DIRECTORY --renew" in refused.stderr
        aigovtool("custodian", "certificate", home, "--renew")
        wait_for(lambda: "tls_certificate_replaced" in log.read_text(), "the custodian looks at the file")
        aigovtool("usage", operator=operator)
        proved = json.loads(aigovtool("custodian", "certificate", operator, "--json").stdout)
        on_file = json.loads(aigovtool("custodian", "certificate", home, "--json").stdout)
        assert (proved["sha256"], proved["ends_soon"]) == (on_file["sha256"], False)
