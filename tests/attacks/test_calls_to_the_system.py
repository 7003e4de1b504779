"""What all processes of a deployment ask the kernel for: whom they connect to, and which files they make.

Traced from `init` to a wipe, by the command line: no process talks to anybody but its peers, and nothing secret, nor
any certificate that is pinned, goes through a file on its way.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.attacks.lent import Lent, lent, numbers
from tests.attacks.published import ROOT
from tests.observations import Observed

_CALLS: Final = "trace=connect,sendto,sendmsg,sendmmsg,open,openat,openat2,creat"
#: Where the C library asks who a user is, on this machine; it is no network.
_USERS: Final = '{sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}'
_OPENED: Final = re.compile(r'(?:open|openat|creat)\((?:AT_FDCWD, )?"([^"]*)", ([A-Z_|0-9x]+)')
_WRITES: Final = re.compile(r"O_(WRONLY|RDWR|CREAT|TMPFILE)")
_ADDRESS: Final = re.compile(r'sa_family=(AF_\w+)(?:, sin_port=htons\((\d+)\), sin_addr=inet_addr\("([\d.]+)"\))?')


@dataclass
class Traced:
    """A deployment that has ended, and what its processes asked for."""

    lent: Lent
    lines: list[str]


def live(made: Lent) -> None:
    """Serve, answer, stop and end."""
    made.start_enclave()
    made.infer(numbers(2), "--save-receipt", "receipt.json")
    made.run("budget", "own", "--credential", "ward7.json")
    made.run("audit", "export", "-o", "log.jsonl")
    made.run("stop", "--model", "adder", "--reason", "drill", "--wait", 5)
    made.end("enclave")
    made.end("custodian")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A life of a deployment, each process with its trace in a file."""
    traces = tmp_path_factory.mktemp("traces")
    before = ("strace", "-D", "-ff", "-qq", "-s", "300", "-e", _CALLS, "-o", str(traces / "of"))
    with lent(tmp_path_factory.mktemp("traced"), before=before) as made:
        live(made)
        yield Traced(made, [line for one in traces.iterdir() for line in one.read_text(errors="replace").splitlines()])


@pytest.mark.fault(30, 35)
def test_nobody_is_talked_to_but_the_peers(traced: Traced, observed: Observed) -> None:
    """Each connection is to the custodian or the enclave; no datagram has an address, so no name is looked up."""
    peers = {port for one in traced.lent.recorders.values() for port in (one.port, one.target)}
    asked = [line for line in traced.lines if line.startswith("connect(") and _USERS not in line]
    addressed = [line for line in traced.lines if line.startswith("send") and "sa_family" in line]
    found = [match.groups() if (match := _ADDRESS.search(line)) else (line,) for line in asked]
    assert [one for one in found if one[0::2] != ("AF_INET", "127.0.0.1") or int(str(one[1])) not in peers] == []
    assert addressed == []
    assert len(asked) >= 8
    observed.figure("connections that were asked for", len(asked))


@pytest.mark.fault(43)
def test_no_file_is_made_but_those_that_are_asked_for(traced: Traced, observed: Observed) -> None:
    """No certificate or key goes through one; the check of a model before it is sealed uses two without a name."""
    opened = [match for line in traced.lines if "= -1" not in line and (match := _OPENED.match(line))]
    written = {match[1].removeprefix(f"{traced.lent.directory}/") for match in opened if _WRITES.search(match[2])}
    allowed = re.compile(
        r"/dev/null|custodian(/.*)?|cache/[0-9a-f]{64}\.part|(hospital|ward7|receipt)\.json|log\.jsonl"
        r"|adder\.aigov(\.key)?|\.?(hospital|ward7|receipt|log|adder)[\w.-]*|tmpdir(/[a-z0-9_]{8})?"
    )
    assert {name for name in written if not allowed.fullmatch(name)} == set()
    unnamed = [match for match in opened if match[1].endswith("/tmpdir") and "O_TMPFILE" in match[2]]
    assert len(unnamed) == 2
    assert any(name.startswith("cache/") for name in written)
    assert list(traced.lent.path("tmpdir").iterdir()) == []
    observed.figure("files that were opened for writing", len(written))


_ALONE: Final = """
import sys, pathlib
from tests.attacks.lent import lent
from tests.attacks.test_calls_to_the_system import live
with lent(pathlib.Path(sys.argv[1])) as made:
    live(made)
print("all of it")
"""


@pytest.mark.fault(30)
def test_all_of_it_works_where_there_is_no_network(alone: list[str], tmp_path: Path) -> None:
    """In a network namespace that has a loopback interface and nothing else."""
    words = [*alone, sys.executable, "-c", _ALONE, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["all of it"], done.stderr
