"""Fixtures of the tests that attack a whole deployment: the same real processes as end to end."""

from collections.abc import Iterator

import pytest
from tests.attacks.lent import Lent, lent
from tests.e2e.conftest import body, digits_model, make_world
from tests.networks import own_network

__all__ = ["body", "digits_model", "make_world"]


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    """A deployment that serves for all tests that leave it as it is: nothing stopped, revoked or used up."""
    with lent(tmp_path_factory.mktemp("standing"), ttl_s=300) as made:
        made.start_enclave()
        yield made


@pytest.fixture
def alone() -> list[str]:
    """Return the beginning of a command that runs where there is a loopback interface and nothing else."""
    script = 'ip link set lo up && test "$(ip -o link | wc -l)" = 1 && exec "$@"'
    return [*own_network(), "bash", "-c", script, "-"]
