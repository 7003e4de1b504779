"""A witness as its keeper runs it: its own process, a custodian in another, ends and crashes of both."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.world import World, wait_for

from aigovtool.codec import decode, encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.custodian.app import initialise
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.cosignature import parse_witness_key, witnessed
from aigovtool.ledger.entry import PartyRole
from aigovtool.operator.witness_home import Memory
from aigovtool.protocol import commands
from aigovtool.protocol.party import OperatorFile

NAME = "witness.example.com/w1"


@dataclass
class Watch:
    """A custodian and a witness, in processes of their own."""

    world: World
    key: str = ""
    rounds: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def file(self, name: str) -> str:
        return str(self.world.directory / name)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "aigovtool", *words]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "AIGOVTOOL_OPERATOR": self.file("alice.json"), "NO_COLOR": "1"}

    def run(self, *words: str, expect: int = 0) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, env=self.environment())
        assert done.returncode == expect, done.stderr
        return done.stdout

    def sign(self, *more: str) -> list[str]:
        return self.command("audit", "witness", "sign", self.file("w1"), *more)

    def watch(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the witness's loop; its output is appended to a file."""
        with Path(self.file("witness.log")).open("ab") as log:
            started = subprocess.Popen(self.sign("--every", "1", *more), stdout=log, stderr=log, env=self.environment())
        self.rounds.append(started)
        return started

    def log(self) -> str:
        return Path(self.file("witness.log")).read_text()

    def memory(self) -> Memory:
        return decode(Path(self.file(f"w1/{self.world.custodian_id}.json")).read_bytes(), Memory)

    def shown(self) -> dict[str, Any]:
        (view,) = self.world.view("/v1/witnesses")["witnesses"]
        return dict(view)

    def grow(self, name: str) -> int:
        """Add an entry; return the size of the log."""
        key = SigningKey.generate().public.raw
        added = commands.AddParty(role=PartyRole.BORROWER, name=name, key=key, borrower=None, valid_for_ms=86_400_000)
        return self.world.command(added).entry + 1

    def co_signed(self, size: int) -> None:
        wait_for(lambda: (self.shown()["size"] or 0) >= size, f"{size} entries are co-signed")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """A custodian that serves from a file, and a witness that is enrolled."""
    yield from watching(tmp_path, None)


@pytest.fixture
def watch_each(tmp_path: Path, ledger: str | None) -> Iterator[Watch]:
    """The same, on each store."""
    yield from watching(tmp_path, ledger)


def watching(tmp_path: Path, ledger: str | None) -> Iterator[Watch]:
    world = World(tmp_path, ledger=ledger)
    initialise(
        tmp_path / "custodian",
        url=f"https://127.0.0.1:{world.custodian_port}",
        hosts=["127.0.0.1"],
        operator="alice",
        allow_simulated=True,
        ledger=ledger,
    )
    world.operator = decode((tmp_path / "custodian" / "operator.json").read_bytes(), OperatorFile)
    (tmp_path / "alice.json").touch(mode=0o600)
    (tmp_path / "alice.json").write_bytes(encode(world.operator))
    made = Watch(world)
    try:
        world.start_custodian()
        made.key = json.loads(made.run("audit", "witness", "init", made.file("w1"), "--name", NAME, "--json"))["key"]
        made.run("audit", "witness", "enrol", made.key)
        yield made
    finally:
        for process in made.rounds:
            process.kill()
            process.wait(20)
        world.close()


def test_a_witness_follows_the_log_and_ends_when_it_is_told_to(watch_each: Watch) -> None:
    """Round after round; a custodian that is away for a while is waited for; SIGTERM is no failure."""
    watch = watch_each
    process = watch.watch("--first")
    watch.co_signed(watch.grow("one"))
    watch.world.kill("custodian")
    wait_for(lambda: "not co-signed: the custodian at" in watch.log(), "it says why it does not co-sign")
    watch.world.start_custodian()
    watch.co_signed(watch.grow("two"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "Traceback" not in watch.log()
    watch.run("audit", "export", "-o", watch.file("log.jsonl"))
    operator = ["--operator", watch.file("alice.json")]
    said = watch.run("audit", "verify", watch.file("log.jsonl"), *operator, "--witness", watch.key)
    assert f"{NAME} co-signed all" in said


@pytest.mark.parametrize(("more", "code"), [((), 143), (("--every", "1"), 0)], ids=["once", "loop"])
def test_one_co_signature_that_was_broken_off_is_no_success(watch: Watch, more: tuple[str, ...], code: int) -> None:
    """SIGTERM is how a loop ends; whoever asked for one co-signature must not take it for made."""
    watch.world.kill("custodian")
    with socket.create_server(("127.0.0.1", watch.world.custodian_port)) as mute:
        mute.settimeout(60)
        process = subprocess.Popen(watch.sign("--first", *more), env=watch.environment(), stderr=subprocess.PIPE)
        watch.rounds.append(process)
        peer, _ = mute.accept()
        with peer:
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=20)
    assert (process.returncode, b"Traceback" in told) == (code, False)


def test_a_witness_that_is_killed_at_any_moment_never_signs_behind_its_memory(watch_each: Watch) -> None:
    """Killed again and again: what the custodian has is never ahead of what the witness remembers, and it goes on."""
    watch = watch_each
    key = parse_witness_key(watch.key)
    first: list[str] = ["--first"]
    for number in range(6):
        before = watch.shown()["size"] or 0
        process = watch.watch(*first)
        watch.co_signed(max(before, watch.grow(f"b{number}")))
        process.kill()
        process.wait(20)
        first = []
        memory, shown = watch.memory(), watch.shown()
        found = parse_checkpoint(memory.note)
        assert [one.time_s for one in witnessed(memory.note, [key])] == [memory.time_s]
        assert (shown["size"], shown["time_s"]) <= (found.size, memory.time_s)
    watch.run("audit", "witness", "sign", watch.file("w1"))


def test_a_restored_ledger_is_found_by_the_witness_alone(watch: Watch) -> None:
    """No enclave is there to remember: the loop ends with exit code 5, and the custodian obeys nothing any more."""
    watch.run("audit", "witness", "sign", watch.file("w1"), "--first")
    ledger = watch.world.directory / "custodian"
    watch.world.kill("custodian", signal.SIGTERM)
    watch.world.processes["custodian"].wait(20)
    shutil.copytree(ledger, watch.world.directory / "backup")
    watch.world.start_custodian()
    process = watch.watch()
    watch.co_signed(watch.grow("forgotten"))
    watch.world.kill("custodian", signal.SIGTERM)
    watch.world.processes["custodian"].wait(20)
    shutil.rmtree(ledger)
    shutil.copytree(watch.world.directory / "backup", ledger)
    watch.world.start_custodian()
    assert process.wait(60) == 5
    assert "rollback" in watch.log()
    assert watch.world.view("/v1/gap")["checkpoint"] == watch.memory().note
    refused = watch.run("borrower", "add", "again", "-o", watch.file("again.json"), expect=7)
    assert refused == ""
