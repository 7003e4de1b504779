"""No server that has begun walks through all that it holds while somebody waits for it."""

import signal
from pathlib import Path

import pytest
from tests.e2e.party_files import consumer_file
from tests.e2e.world import ENCLAVE_PROGRAM, MODEL, MakeWorld, World, wait_for

#: Says at its end how many objects are left out of collections, and how many there are in all.
_TELLS = """
import atexit, gc
tell = lambda: print("\\nfrozen", gc.get_freeze_count(), "of", gc.get_freeze_count() + len(gc.get_objects()))
atexit.register(tell)
"""
_GATEWAY = """
import pathlib, sys
from aigovtool.consumer.connect.app import ConnectOptions, serve
serve(ConnectOptions(enclaves=[sys.argv[1]], credential_file=pathlib.Path(sys.argv[2]), home=pathlib.Path(sys.argv[3]),
      port=0, allow_simulated=True), ready=lambda running: print("serves"))
"""


def end(world: World, name: str) -> None:
    """End a server in good order."""
    world.kill(name, signal.SIGTERM)
    assert world.processes[name].wait(20) == 0


def left_out(log: Path) -> float:
    """Return which share of a process's objects was left out, as its log says."""
    (line,) = [words.split() for words in log.read_text().splitlines() if words.startswith("frozen ")]
    return int(line[1]) / int(line[3])


@pytest.mark.timeout(180)
def test_each_server_leaves_what_it_holds_for_good_out_of_collections(make_world: MakeWorld) -> None:
    """Custodian, enclave and gateway, each as it serves: a full collection would be 20 to 60 ms every few seconds."""
    world = make_world(budget=10, ttl_ms=10_000)
    directory = world.directory
    end(world, "custodian")
    end(world, "enclave")
    world.spawn("custodian", _TELLS + world.custodian_code, str(directory / "custodian"), str(world.custodian_port))
    wait_for(world.custodian_answers, "the custodian answers")
    arguments = (str(directory / "borrower.json"), str(world.enclave_port), str(directory / "cache"), MODEL)
    world.spawn("enclave", _TELLS + ENCLAVE_PROGRAM, *arguments)
    wait_for(world.enclave_ready, "the enclave is ready")
    url, home = f"https://127.0.0.1:{world.enclave_port}", str(directory / "home")
    world.spawn("gateway", _TELLS + _GATEWAY, url, str(consumer_file(world)), home)
    wait_for(lambda: "serves" in (directory / "gateway.log").read_text(), "the gateway serves")
    for name in ("gateway", "enclave", "custodian"):
        end(world, name)
    shares = {name: left_out(directory / f"{name}.log") for name in ("custodian", "enclave", "gateway")}
    assert min(shares.values()) > 0.7, shares
