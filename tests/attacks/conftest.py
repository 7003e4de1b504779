"""Fixtures of the tests that attack a whole deployment: the same real processes as end to end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.attacks.balancer import Balancer, balancing
from tests.attacks.deployments import Consumer, Deployment, deployed
from tests.attacks.lent import Lent, lent
from tests.attacks.sealing import file_of
from tests.e2e.conftest import body, digits_model, make_world

from aigovtool.consumer import Client

__all__ = ["body", "digits_model", "make_world"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all tests of a module, each of which has consumers of its own. Its ttl is a second."""
    with deployed(tmp_path_factory.mktemp("deployment"), ttl_ms=1_000) as made:
        yield made


@pytest.fixture
def world(deployment: Deployment) -> Deployment:
    """The deployment, when it is ready."""
    deployment.wait_ready()
    return deployment


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    """A deployment that serves for all tests that leave it as it is: nothing stopped, revoked or used up."""
    with lent(tmp_path_factory.mktemp("standing"), ttl_s=300) as made:
        made.start_enclave()
        yield made


@pytest.fixture
def balancer(world: Deployment) -> Iterator[Balancer]:
    """What every consumer of these tests connects to."""
    with balancing(world.enclave_port) as made:
        yield made


@pytest.fixture
def consumer(world: Deployment) -> Consumer:
    """A consumer with units enough."""
    return world.new_consumer(1_000)[0]


@pytest.fixture
def connect(balancer: Balancer, consumer: Consumer) -> Iterator[Callable[..., Client]]:
    """Connect through the balancer, in the consumer's name."""
    with ExitStack() as stack:
        file = file_of(consumer)

        def connected(**options: Any) -> Client:
            return stack.enter_context(Client.connect(balancer.url, file, sealed=True, allow_simulated=True, **options))

        yield connected
