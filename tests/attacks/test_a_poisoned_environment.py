"""What a server runs is not chosen by variables, nor by files where it was started."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.lent import Lent, numbers
from tests.attacks.looking import descendants
from tests.observations import Observed

#: Modules that the servers load, as somebody else would write them: each tells that it was loaded, and fails.
_SHADOWED = ("click", "msgspec", "httpx", "cryptography", "starlette", "uvicorn", "onnxruntime", "numpy", "sqlalchemy")
_TELL = "import os, sys\nopen({told!r}, 'a').write(f'{name} {{os.getpid()}} {{sys.flags.isolated}}\\n')\n"


class Poisoned(Lent):
    """A deployment whose servers are started with a poisoned environment, in a poisoned directory."""

    serving: bool = False

    @property
    def told(self) -> Path:
        """Where poison tells that it works."""
        return self.path("home") / "told"

    def environment(self) -> dict[str, str]:
        """Return what a process is given."""
        usual = super().environment()
        if not self.serving:
            return usual
        return {
            **usual,
            "PYTHONPATH": str(self.path("poison")),
            "PYTHONSTARTUP": str(self.path("poison/sitecustomize.py")),
            "PYTHONHASHSEED": "0",
            "PYTHONWARNINGS": "error",
            "PYTHONFAULTHANDLER": "1",
            "SSLKEYLOGFILE": str(self.path("home") / "keys.log"),
        }

    def start(self, *words: Any, **more: Any) -> None:
        """Start a server with poison around it."""
        place = self.path("poison")
        place.mkdir(exist_ok=True)
        for directory, names in ((place, ("sitecustomize", "usercustomize", *_SHADOWED)), (self.directory, _SHADOWED)):
            for name in names:
                failing = "" if name.endswith("customize") else f"raise ImportError({name!r})\n"
                (directory / f"{name}.py").write_text(_TELL.format(told=str(self.told), name=name) + failing)
        self.serving = True
        try:
            super().start(*words, **more)
        finally:
            self.serving = False
            for name in _SHADOWED:  # they are for what serves alone
                (self.directory / f"{name}.py").unlink()


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Poisoned]:
    """A deployment that was poisoned before its servers started."""
    made = Poisoned(tmp_path_factory.mktemp("poisoned"), weights=numbers(1))
    try:
        made.prepare()
        made.start_enclave()
        yield made
    finally:
        made.close()


@pytest.mark.attack(44)
def test_servers_load_nothing_that_the_environment_names(poisoned: Poisoned, observed: Observed) -> None:
    """They serve, isolated, all their processes are; no shadow of a module was loaded, by no path and no directory."""
    poisoned.infer(numbers(2))
    told = [line.split() for line in poisoned.told.read_text().splitlines()]
    assert {name for name, _, _ in told} <= {"sitecustomize", "usercustomize"}  # of the program that starts them anew
    assert {isolated for _, _, isolated in told} == {"0"}
    serving = [process.pid for process in poisoned.processes.values()]
    pids = {*serving, *(child for pid in serving for child in descendants(pid))}
    assert len(pids) >= 3
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert b"-I" in words, words
        names = {one.partition(b"=")[0] for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert {name for name in names if name.startswith((b"PYTHON", b"SSL"))} == set()
    observed.figure("processes of servers that are isolated", len(pids))


@pytest.mark.attack(44)
def test_no_secret_of_a_session_is_written_where_the_environment_says(poisoned: Poisoned) -> None:
    """`SSLKEYLOGFILE` would open all recorded traffic to whoever can set a variable."""
    poisoned.infer(numbers(2))
    assert [path.name for path in poisoned.path("home").iterdir()] == ["told"]
