"""The custodian is on another machine: whoever hosts the enclave reaches one port of it, and nothing else."""

import socket
from pathlib import Path
from typing import Final

import pytest
from tests.attacks.cables import another_machine
from tests.attacks.lent import MODEL, Lent, numbers
from tests.observations import Observed

#: What often listens on a machine, and the range around it.
_COMMON: Final = (*range(1, 1024), 2024, 3306, 5432, 6000, 8080, 8443, 9925)
_LISTENING: Final = "0A"


def listening(pid: int) -> list[tuple[str, int]]:
    """Return the addresses on which anybody listens in the network of a process."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTENING:
                address, port = local.split(":")
                found.append((address, int(port, 16)))
    return found


def reached(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


@pytest.mark.fault(16)
@pytest.mark.needs("root", "namespaces")
def test_a_custodian_in_another_network_lends_through_one_port(tmp_path: Path, observed: Observed) -> None:
    """A model is lent, booted, used and stopped across; its only open port is the one that it was told to open."""
    with another_machine() as cable:
        made = Lent(tmp_path, weights=numbers(1), custodian_host=cable.address, custodian_before=cable.before)
        try:
            made.prepare()
            made.start_enclave()
            made.infer(numbers(2))
            assert made.run("enclaves")["enclaves"][0]["models"] == [MODEL]
            port = made.ports["custodian"]
            ((address, open_port),) = listening(made.processes["custodian"].pid)
            assert (socket.inet_ntoa(bytes.fromhex(address)[::-1]), open_port) == (cable.address, port)
            tried = {*_COMMON, port}
            assert {one for one in tried if reached(cable.address, one)} == {port}
            observed.figure("ports tried", len(tried))
            made.run("stop", "--all", "--reason", "over")
            made.infer(numbers(2), code=6)
        finally:
            made.close()
