"""Disks that are full, under running processes: of the enclave's cache, and of the custodian's ledger.

Each is a file system of its own that has room for a few pages. What a disk does at each single call is played elsewhere
(the campaigns disk-errors, crash-points and power-fail); here nothing stands between the processes and a real one.
"""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.lent import MODEL, Lent, lent, numbers
from tests.attacks.raw import context_of
from tests.e2e.world import Answer, Connection, wait_for
from tests.observations import Observed

pytestmark = [pytest.mark.attack(23), pytest.mark.needs("root", "namespaces")]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lent]:
    """A deployment whose enclave is not started yet, for each test: they want disks as they were left by nobody."""
    with lent(tmp_path, ttl_s=2) as prepared:
        yield prepared


#: Puts a small file system at a place, with what was there before; the second word says whether it is filled up.
_SMALL = """
cp -a "$0" "$0.kept" && mount -t tmpfs -o "size=$1,mode=700" none "$0" && cp -a "$0.kept/." "$0" && rm -r "$0.kept"
if [ "$2" = full ]; then cat /dev/zero > "$0/other" 2> /dev/null; fi
shift 2
exec "$@"
"""


def on_a_disk_of(size: str, place: Path, *, full: bool) -> tuple[str, ...]:
    """Return how a command begins that finds a file system of this size at a place."""
    return ("unshare", "--mount", "sh", "-c", _SMALL, str(place), size, "full" if full else "free")


def within(process: "subprocess.Popen[bytes]", *words: object) -> None:
    """Run a command among the files that a process sees."""
    subprocess.run(["nsenter", "-t", str(process.pid), "-m", *map(str, words)], check=True, capture_output=True)


def events(made: Lent, name: str) -> list[dict[str, Any]]:
    """Return what a server has logged."""
    return [json.loads(line) for line in made.log(name).splitlines()]


def kinds(made: Lent) -> list[str]:
    """Return the kinds of all entries of the log."""
    return [entry["kind"] for entry in made.run("audit", "list")["entries"]]


def test_an_enclave_whose_cache_has_no_room_says_so_and_gets_no_key(made: Lent, observed: Observed) -> None:
    """It tries again, then ends with a type; no key was asked for. With room for the package it serves."""
    made.path("cache").mkdir(mode=0o700)
    made.before = on_a_disk_of("64k", made.path("cache"), full=True)
    with pytest.raises(AssertionError, match="cache"):
        made.start_enclave()
    assert made.processes["enclave"].returncode not in {0, None}
    told = [line for line in events(made, "enclave") if line["event"] == "boot_failed"]
    assert {(line["code"], line["reason"]) for line in told} == {("configuration", "cache")}
    assert "key_released" not in kinds(made)
    assert "lease_granted" not in kinds(made)
    made.before = ()
    made.start_enclave()
    made.infer(numbers(2))
    observed.figure("starts of an enclave without room for its cache, each refused", 1 + len(told))
    made.end("enclave")


def asked(link: Connection) -> int:
    """Ask for one inference; return the status."""
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": numbers(4).ravel().tolist()}
    return link.request("POST", f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode()).status


def start_custodian(made: Lent) -> None:
    """Start a custodian that has served before, and wait until it takes connections."""
    made.start_custodian()

    def reached() -> bool:
        try:
            socket.create_connection(("127.0.0.1", made.ports["custodian"]), 1).close()
        except OSError:
            return False
        return True

    wait_for(reached, "the custodian serves")


def charged(made: Lent) -> int:
    """Return the units that the ledger counts as spent or held."""
    (row,) = made.run("budget", "show")["budgets"]
    return int(row["posted"]) + int(row["pending"])


def test_a_custodian_whose_disk_is_full_grants_nothing_and_has_lost_nothing(made: Lent, observed: Observed) -> None:
    """It ends, and within a ttl what the enclave may do does; with room again, all that was answered is charged."""
    place = made.path("custodian")
    assert made.end("custodian") == 0
    made.custodian_before = on_a_disk_of("2m", place, full=False)
    start_custodian(made)
    custodian = made.processes["custodian"]
    # The file system is gone with the last who sees it.
    with subprocess.Popen(["nsenter", "-t", str(custodian.pid), "-m", "sleep", "600"]) as holding:
        try:
            made.start_enclave()
            wait_for(lambda: asked_anew(made) == 200, "it serves")
            link = Connection(made.ports["enclave"], context_of(made.path("ward7.json")))
            answered = sum(asked(link) == 200 for _ in range(5))
            assert answered == 5
            within(custodian, "sh", "-c", f"cat /dev/zero > {place}/other || true")
            full_s = last_s = time.monotonic()
            while asked(link) == 200:
                answered, last_s = answered + 1, time.monotonic()
                time.sleep(0.1)
            link.close()
            wait_for(lambda: custodian.poll() is not None, "the custodian ends")
            assert custodian.returncode not in {0, None}
            assert last_s - full_s <= 2 * made.ttl_s + 2  # its last renewal, and a ttl
            subprocess.run(["nsenter", "-t", str(holding.pid), "-m", "rm", f"{place}/other"], check=True)
            there = ("sh", "-c", 'cd "$0" && exec "$@"', str(made.directory))
            made.custodian_before = ("nsenter", "-t", str(holding.pid), "-m", *there)
            start_custodian(made)
            assert answered + 1 <= charged(made)
            wait_for(lambda: asked_anew(made) == 200, "it serves again")
            made.run("audit", "export", "-o", "log.jsonl")
            observed.figure("answers around a full disk of the custodian, all of them charged", answered)
        finally:
            holding.kill()


def asked_anew(made: Lent) -> int:
    """Ask on a connection of its own, which an enclave with a new key ends; return the status, or 0."""
    link = Connection(made.ports["enclave"], context_of(made.path("ward7.json")))
    try:
        return asked(link)
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        link.close()


def test_an_operator_who_uploads_all_that_there_is_room_for_keeps_nobody_from_stopping(
    made: Lent, observed: Observed
) -> None:
    """Attack: genuine uploads, ever smaller ones, until the least is refused. Stops are taken as before."""
    assert made.end("custodian") == 0
    made.custodian_before = on_a_disk_of("24m", made.path("custodian"), full=False)
    start_custodian(made)
    link = Connection(made.ports["custodian"], context_of(made.path("custodian/operator.json")))
    uploads = 0
    for size_bytes in (1 << 20, 64 << 10, 4 << 10):
        while (answer := uploaded(link, os.urandom(size_bytes))).status == 200:
            uploads += 1
            assert uploads < 1_000
        assert observed.refusal(answer.json()) == "storage_failed: no_room_for_package"
    link.close()
    for number in range(3):
        made.run("stop", "--all", "--wait", "0", "--reason", f"drill {number}")
    assert made.processes["custodian"].poll() is None
    assert kinds(made).count("stopped") == 3
    observed.figure("uploads to a disk of 24 MiB until the custodian refused a page", uploads)


def uploaded(link: Connection, package: bytes) -> Answer:
    """Upload what is taken for a package, under its digest."""
    return link.request("PUT", f"/v1/packages/sha256:{sha256(package).hexdigest()}", package)
