"""What all processes of a deployment ask the kernel for: whom they connect to, and which files they make.

Traced from `init` to a wipe, by the command line: no process talks to anybody but its peers, and nothing secret, nor
any certificate that is pinned, goes through a file on its way.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.attacks.engine_root import of_the_machine
from tests.attacks.lent import Lent, numbers
from tests.attacks.published import ROOT
from tests.effort import is_long
from tests.networks import cut_off, own_network_works
from tests.observations import Observed

_CALLS: Final = "trace=connect,sendto,sendmsg,sendmmsg,open,openat,openat2,creat"
#: Where the C library asks who a user is, on this machine; it is no network.
_USERS: Final = '{sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}'
_OPENED: Final = re.compile(r'(?:open|openat|creat)\((?:AT_FDCWD, )?"([^"]*)", ([A-Z_|0-9x]+)')
_WRITES: Final = re.compile(r"O_(WRONLY|RDWR|CREAT|TMPFILE)")
_ADDRESS: Final = re.compile(r'sa_family=(AF_\w+)(?:, sin_port=htons\((\d+)\), sin_addr=inet_addr\("([\d.]+)"\))?')


#: A deployment lives in a process of its own, which may be put anywhere; it prints the ports of the peers.
_LIFE: Final = """
import json, pathlib, sys
from tests.attacks.lent import lent
from tests.attacks.test_calls_to_the_system import live
with lent(pathlib.Path(sys.argv[1]), before=tuple(sys.argv[2:])) as made:
    live(made)
    print(json.dumps([port for one in made.recorders.values() for port in (one.port, one.target)]))
"""


def live(made: Lent) -> None:
    """Serve, answer, stop and end."""
    made.start_enclave()
    made.infer(numbers(2), "--save-receipt", "receipt.json")
    made.run("budget", "own", "--credential", "ward7.json")
    made.run("audit", "export", "-o", "log.jsonl")
    made.run("stop", "--model", "adder", "--reason", "drill", "--wait", 5)
    made.end("enclave")
    made.end("custodian")


def lived(place: Path, *before: str, where: Sequence[str] = ()) -> set[int]:
    """Have a deployment live, with `before` put before each of its commands; return the ports of the peers."""
    words = [*where, sys.executable, "-c", _LIFE, str(place), *before]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@dataclass
class Traced:
    """What the processes of a deployment asked for, which has ended."""

    directory: Path
    peers: set[int]
    lines: list[str]
    #: Whether there was a loopback interface and nothing else.
    cut_off: bool


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A life of a deployment, each process with its trace in a file; in the suite it is cut off, where that can be."""
    traces, place = tmp_path_factory.mktemp("traces"), tmp_path_factory.mktemp("traced")
    before = ("strace", "-D", "-ff", "--seccomp-bpf", "-qq", "-s", "300", "-e", _CALLS, "-o", str(traces / "of"))
    alone = own_network_works() and not is_long()
    peers = lived(place, *before, where=cut_off() if alone else ())
    lines = [line for one in traces.iterdir() for line in one.read_text(errors="replace").splitlines()]
    return Traced(place, peers, lines, alone)


@pytest.mark.fault(30, 35)
def test_nobody_is_talked_to_but_the_peers(traced: Traced, observed: Observed) -> None:
    """Each connection is to the custodian or the enclave; no datagram has an address, so no name is looked up."""
    asked = [line for line in traced.lines if line.startswith("connect(") and _USERS not in line]
    addressed = [line for line in traced.lines if line.startswith("send") and "sa_family" in line]
    found = [match.groups() if (match := _ADDRESS.search(line)) else (line,) for line in asked]
    assert [one for one in found if one[0::2] != ("AF_INET", "127.0.0.1") or int(str(one[1])) not in traced.peers] == []
    assert addressed == []
    assert len(asked) >= 8
    observed.figure("connections that were asked for", len(asked))


@pytest.mark.fault(43)
def test_no_file_is_made_but_those_that_are_asked_for(traced: Traced, observed: Observed) -> None:
    """No certificate or key goes through one; the check of a model before it is sealed uses two without a name."""
    opened = [match for line in traced.lines if "= -1" not in line and (match := _OPENED.match(line))]
    names = {match[1] for match in opened if _WRITES.search(match[2]) and of_the_machine(match[1])}
    written = {name.removeprefix(f"{traced.directory}/") for name in names}
    allowed = re.compile(
        r"/dev/null|custodian(/.*)?|cache/[0-9a-f]{64}\.part|(hospital|ward7|receipt)\.json|log\.jsonl"
        r"|adder\.aigov(\.key)?|\.?(hospital|ward7|receipt|log|adder)[\w.-]*|tmpdir(/[a-z0-9_]{8})?"
    )
    assert {name for name in written if not allowed.fullmatch(name)} == set()
    unnamed = [match for match in opened if match[1].endswith("/tmpdir") and "O_TMPFILE" in match[2]]
    assert len(unnamed) == 2
    assert any(name.startswith("cache/") for name in written)
    assert list((traced.directory / "tmpdir").iterdir()) == []
    observed.figure("files that were opened for writing", len(written))


@pytest.mark.fault(30)
@pytest.mark.needs("namespaces")
def test_all_of_it_works_where_there_is_no_network(traced: Traced, tmp_path: Path) -> None:
    """In a network namespace that has a loopback interface and nothing else; in the campaign that is a second life."""
    if is_long():
        assert len(lived(tmp_path, where=cut_off())) == 4
    else:
        assert traced.cut_off
        assert len(traced.peers) == 4
