"""A file is exchanged for a link, a pipe, a directory or somebody else's copy, while it is being opened."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.attacks import swapping
from tests.attacks.lent import MODEL, Lent
from tests.attacks.raw import context_of
from tests.e2e.world import Connection, free_port, wait_for
from tests.effort import effort, is_long
from tests.observations import Observed

from aigovtool.crypto.keyfile import read_secret_file
from aigovtool.errors import ConfigurationError
from aigovtool.regular_file import read_at_most

_OWN, _STOLEN = b"own" * 1_000, b"stolen" * 1_000
_SWAPS: Final = effort(2_000, campaign=10_000)


@contextmanager
def swapped(
    path: Path, own: Path, stolen: Path, count: int = 0, kind: str = "any"
) -> Iterator["subprocess.Popen[bytes]"]:
    """Exchange a file meanwhile; afterwards it is its own again."""
    words = [sys.executable, str(Path(swapping.__file__)), str(path), str(own), str(stolen), str(count), kind]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as racer:
        try:
            yield racer
        finally:
            racer.kill()
            racer.wait()
            swapping.restore(path, own)


def secret(path: Path) -> bytes:
    """Read as keys and parties' files are read."""
    return read_secret_file(path).reveal()


def regular(path: Path) -> bytes:
    """Read as packages, caches and what a user names are read."""
    return read_at_most(path, 1 << 20)


@pytest.mark.attack(43)
@pytest.mark.parametrize(
    ("read", "refused"), [(secret, ConfigurationError), (regular, OSError)], ids=["secret files", "regular files"]
)
def test_what_is_read_is_the_file_that_was_looked_at(
    tmp_path: Path, read: Callable[[Path], bytes], refused: type[Exception], observed: Observed
) -> None:
    """Thousands of times exchanged: it is the own file or nothing; no link is followed, and no pipe waited for."""
    own, stolen, path = tmp_path / "own", tmp_path / "stolen", tmp_path / "path"
    for file, content in ((own, _OWN), (stolen, _STOLEN)):
        file.write_bytes(content)
        file.chmod(0o600)
    found: Counter[bytes] = Counter()
    refusals: Counter[str] = Counter()
    with swapped(path, own, stolen, _SWAPS) as racer:
        while racer.poll() is None:
            try:
                found[read(path)] += 1
            except refused as error:
                reason = getattr(error, "reason", None) or type(error).__name__
                refusals[reason] += 1
                if isinstance(error, ConfigurationError) and refusals[reason] == 1:
                    observed.refusal(error)
        assert racer.stdout is not None
        assert int(racer.stdout.read()) == _SWAPS
    # What others can read may be read, where it is no secret.
    assert found.keys() <= ({_OWN} if read is secret else {_OWN, _STOLEN[::-1]})
    assert found[_OWN] > 100
    assert refusals.total() > 100
    observed.figure("times that a file was exchanged", _SWAPS)
    observed.figure("times that it was read meanwhile", found.total() + refusals.total())


@pytest.mark.attack(43)
def test_a_verb_acts_for_nobody_else(standing: Lent, observed: Observed) -> None:
    """The consumer's file is exchanged for a link to another consumer's: each run is the own consumer's, or refused."""
    if not standing.path("ward12.json").exists():
        standing.run("consumer", "add", "ward12", "--borrower", "hospital", "-o", "ward12.json", "--allow-simulated")
    path, codes = standing.path("racing.json"), Counter[int]()
    with swapped(path, standing.path("ward7.json"), standing.path("ward12.json")):
        wait_for(path.exists, "the race has begun")
        for _ in range(effort(3, campaign=6)):
            words = standing.words("budget", "own", "--credential", path, "--json")
            done = subprocess.run(words, env=standing.environment(), capture_output=True, timeout=60, check=False)
            codes[done.returncode] += 1
            assert b"ward12" not in done.stdout
            if done.returncode:
                assert json.loads(done.stdout)["error"]["code"] in {"configuration", "usage"}
    assert codes.keys() <= {0, 2}
    observed.figure("verbs whose file was exchanged", codes.total())


@pytest.mark.attack(43)
def test_a_custodian_serves_no_other_file_as_a_package(standing: Lent, observed: Observed) -> None:
    """The package is exchanged for a link to a key of the custodian: what is served is the package, or nothing."""
    (package,) = standing.path("custodian/packages").glob("*.aigov")
    own = standing.path("package.copy")
    own.write_bytes(package.read_bytes())
    key = standing.path("custodian/keys/keystore.key")
    found: Counter[int] = Counter()
    connection = Connection(standing.ports["custodian"], context_of(None))
    with swapped(package, own, key):
        for _ in range(effort(60, campaign=200)):
            answer = connection.request("GET", f"/v1/packages/sha256:{package.stem}")
            found[answer.status] += 1
            assert key.read_bytes() not in answer.body
            assert answer.status != 200 or answer.body in {own.read_bytes(), key.read_bytes()[::-1]}
        assert connection.request("GET", "/v1/health").status == 200
    connection.close()
    assert found.keys() <= {200, 404, 500, 503}
    observed.figure("packages asked for while they were exchanged", found.total())


def tried(log: str) -> bool:
    """Return whether an enclave serves; in the suite also whether it has failed to boot once, and will try again."""
    return "serving" in log or ("boot_failed" in log and not is_long())


@pytest.mark.attack(43)
@pytest.mark.parametrize("kind", ["aigov", "part"])
def test_an_enclave_writes_to_nothing_else_than_its_cache(standing: Lent, kind: str, observed: Observed) -> None:
    """What it has downloaded, or is about to, is exchanged for a link to a file of the borrower's while it boots."""
    (package,) = standing.path("custodian/packages").glob("*.aigov")
    cache, own, victim = (standing.path(f"{name}-{kind}") for name in ("cache", "own", "victim"))
    cache.mkdir(mode=0o700, exist_ok=True)
    own.write_bytes(package.read_bytes()[:1_000])
    victim.write_bytes(_STOLEN)
    fixed = ("--tee", "simulated", "--allow-simulated", "--borrower-file", standing.path("hospital.json"))
    listen = ("--model", MODEL, "--listen", f"127.0.0.1:{free_port()}", "--cache", cache)
    log = standing.path(f"racing-{kind}.log")
    exchanged = {"aigov": "any", "part": "link"}[kind]  # what is opened to be written to is opened once in a boot
    with swapped(cache / f"{package.stem}.{kind}", own, victim, kind=exchanged), log.open("wb") as out:
        words = standing.words("enclave", "serve", *fixed, *listen)
        with subprocess.Popen(words, env=standing.environment(), stdout=out, stderr=out) as enclave:
            try:
                wait_for(lambda: enclave.poll() is not None or tried(log.read_text()), "it has tried to boot")
            finally:
                enclave.kill()
    assert enclave.poll() in {2, 5, 7, -9}, log.read_text()
    assert victim.read_bytes() == _STOLEN
    observed.figure("enclaves that booted while their cache was exchanged", 1)


@pytest.mark.attack(43)
def test_no_verb_writes_through_a_link_that_lies_in_waiting(standing: Lent) -> None:
    """Somebody who can write to the same directory knows what a verb writes to before the file has its name."""
    victim = standing.path("victim")
    victim.write_text("mine")
    verbs = {"log.jsonl": ("audit", "export"), "again.aigov": ("model", "seal", "adder.onnx", "--name", "again")}
    for name, verb in verbs.items():
        for planted in (f".{name}.partial", f".{name}.tmp"):
            standing.path(planted).symlink_to(victim)
        standing.run(*verb, "-o", name)
        assert not standing.path(name).is_symlink()
    assert victim.read_text() == "mine"
