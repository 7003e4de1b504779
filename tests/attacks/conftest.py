"""Fixtures of the tests that attack a whole deployment: the same real processes as end to end.

What traces processes, or gives them a network of their own, is left out where nothing can do that; in CI that is an
error.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from tests.attacks.lent import Lent, lent
from tests.e2e.conftest import body, digits_model, make_world

__all__ = ["body", "digits_model", "make_world"]


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    """A deployment that serves for all tests that leave it as it is: nothing stopped, revoked or used up."""
    with lent(tmp_path_factory.mktemp("standing"), ttl_s=300) as made:
        made.start_enclave()
        yield made


def own_network() -> list[str]:
    """Return what starts a command in a network namespace of its own."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]


def missing() -> dict[str, str]:
    """Return which tests cannot be played here, by the fixture that they need, and why."""
    found = {}
    if shutil.which("strace") is None:
        found["traced"] = "strace is not installed (apt install strace): tests that trace processes are left out"
    able = shutil.which("unshare") and subprocess.run([*own_network(), "ip", "link"], capture_output=True, check=False)
    if not able or able.returncode != 0:
        found["alone"] = "this user may make no network namespace: tests without a network are left out"
    return found


@pytest.fixture
def alone() -> list[str]:
    """Return the beginning of a command that runs where there is a loopback interface and nothing else."""
    script = 'ip link set lo up && test "$(ip -o link | wc -l)" = 1 && exec "$@"'
    return [*own_network(), "bash", "-c", script, "-"]


def pytest_report_header() -> list[str]:
    """Say at the top what is missing here."""
    return list(missing().values())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot be played."""
    lacking = missing()
    left_out = [item for item in items if lacking.keys() & set(getattr(item, "fixturenames", ()))]
    if left_out and os.environ.get("CI"):
        raise pytest.UsageError("; ".join(lacking.values()))
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
