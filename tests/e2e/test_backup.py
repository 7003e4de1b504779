"""A ledger is backed up while leases are granted, lost, and put back: typed as its operators type it."""

import json
import threading
from pathlib import Path

from tests.e2e.commandline import aigovtool
from tests.e2e.heartbeat import wait_for_heartbeat
from tests.e2e.test_restore import ask, ledger_files, stop_custodian
from tests.e2e.world import MODEL, MakeWorld

BUDGET = 400


def test_a_backup_of_a_running_ledger_is_restored_and_found_out(make_world: MakeWorld, body: bytes) -> None:
    """The copy is whole although leases are granted meanwhile; restored, it grants nothing that it forgot."""
    world = make_world(budget=BUDGET, ttl_ms=1_000)
    alice, bob = world.directory / "custodian" / "operator.json", world.directory / "bob.json"
    copy, order = world.directory / "ledger-copy.db", world.directory / "order.json"
    needless = aigovtool("operator", "add", "bob", "-o", bob, "--save", order, operator=alice, code=3)
    assert "needs_one" in needless.stderr  # the second operator is enrolled by the first alone
    aigovtool("operator", "add", "bob", "-o", bob, operator=alice)
    connection, ending, answered = world.connect(), threading.Event(), 0

    def consume() -> None:
        nonlocal answered
        while not ending.is_set():
            answered += connection.infer(body).status == 200

    consumer = threading.Thread(target=consume)
    consumer.start()
    try:
        world.wait_for(lambda: answered > 3, "leases are granted and used")
        made = json.loads(aigovtool("custodian", "backup", copy, "--json", operator=alice).stdout)
        at_backup = answered
        world.wait_for(lambda: answered > at_backup + 20, "the service never stopped")
    finally:
        ending.set()
        consumer.join()
    assert "keys/" in " ".join(made["not_in_it"])
    refused = aigovtool("custodian", "backup", copy, operator=alice, code=2)
    assert "file_exists" in refused.stderr
    wait_for_heartbeat(world)  # the enclave has the checkpoint that covers its leases
    entries = len(world.log_entries())
    assert made["entries"] < entries
    stop_custodian(world)
    restore(world.directory / "custodian", ledger_files(world), copy)
    world.start_custodian()
    world.wait_for(lambda: world.view("/v1/gap")["checkpoint"] is not None, "the enclave shows what it remembers")
    gap = json.loads(aigovtool("custodian", "gap", "--json", operator=alice).stdout)
    assert (gap["forgotten"], gap["size"]) == (True, made["entries"])
    assert ask(world, body, []) != 200
    settle = ["custodian", "settle", "--charge-all", "--reason", "disk lost", "--save", order]
    assert "not_stopped" in aigovtool(*settle, operator=alice, code=3).stderr
    aigovtool("stop", "--all", "--wait", "0", operator=alice)
    aigovtool(*settle, operator=alice)
    aigovtool("cosign", order, "--yes", operator=bob)
    lift = str(world.directory / "lift.json")
    aigovtool("resume", "--all", "--yes", "--save", lift, operator=alice)
    aigovtool("cosign", lift, "--yes", operator=bob)
    (row,) = json.loads(aigovtool("budget", "show", "--model", MODEL, "--json", operator=alice).stdout)["budgets"]
    assert row["room"] == 0
    statuses: list[int] = []
    world.wait_for(lambda: ask(world, body, statuses) == 402, "nothing of what was forgotten is granted again")
    assert answered + statuses.count(200) <= BUDGET


def restore(home: Path, lost: list[Path], copy: Path) -> None:
    """Lose the ledger, and put the copy in its place as docs/deploy.md says."""
    for path in lost:
        path.unlink()
    (home / "ledger.db").write_bytes(copy.read_bytes())
    (home / "ledger.db").chmod(0o600)
