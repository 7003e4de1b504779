"""Large sealed answers that are read slowly, or by nobody: what holds over a connection of its own holds here as well.

They leave frame by frame, through somebody who ends TLS and may be as slow as it likes.
"""

import http.client
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.attacks.deployments import Consumer, Deployment, deployed
from tests.attacks.laborious import asked, laborious_model
from tests.attacks.memory import resident_mib
from tests.attacks.sealing import Sender, opened, place_of
from tests.attacks.test_answers_that_nobody_takes import ASKED, LARGE_BYTES, MIB, the_rest
from tests.e2e.world import MODEL

from aigovtool.protocol import sealed
from aigovtool.transport.tls import unverified_context_for_sealed_bodies

PATH = f"/v2/models/{MODEL}/infer"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment whose model gives back what it is sent, however much, for one unit."""
    with deployed(tmp_path_factory.mktemp("unread"), model=laborious_model(), ttl_ms=30_000) as world:
        yield world


class Asking:
    """A consumer that asks sealed, and reads when it is told to."""

    def __init__(self, consumer: Consumer, stack: ExitStack) -> None:
        self._sender = Sender(consumer.world.enclave_port, consumer.certificate, consumer.key, name=consumer.name)
        self._place = place_of(self._sender)
        self._stack = stack

    def begun(self, size_bytes: int) -> tuple[http.client.HTTPResponse, bytes, bytes]:
        """Return a sealed answer of which nothing was read yet, with what opens it."""
        body, headers = asked(bytes(size_bytes))
        instance, key = self._place
        sent, secret, digest = self._sender.sealed(instance, key, PATH, body, **headers)
        context = unverified_context_for_sealed_bodies()
        link = http.client.HTTPSConnection("127.0.0.1", self._sender.port, context=context, timeout=60)
        self._stack.callback(link.close)
        link.request("POST", sealed.SEALED_PATH, sent, headers={"content-type": sealed.MEDIA_TYPE})
        answer = link.getresponse()
        assert answer.status == 200
        return answer, secret, digest

    def status(self, size_bytes: int) -> int:
        """Ask, and return the status within the answer."""
        answer, secret, digest = self.begun(size_bytes)
        return opened(answer.read(), secret, digest)[0]


def test_a_sealed_answer_that_is_read_slowly_does_not_leave_after_a_stop(world: Deployment) -> None:
    """It was charged before, and most of it is with the enclave still: that stays there."""
    with ExitStack() as stack:
        answer, *_ = Asking(world.add_consumer("slow"), stack).begun(LARGE_BYTES)
        assert len(answer.read(MIB)) == MIB
        world.stop()
        world.wait_for(lambda: bool(world.entries("wiped")), "the enclave is wiped")
        assert the_rest(answer) < LARGE_BYTES // 2


def test_sealed_answers_that_nobody_takes_do_not_fill_the_memory(world: Deployment) -> None:
    """Nothing more is run for who takes none of its answers; sealed, they take no more memory."""
    pid = world.processes["enclave"].pid
    with ExitStack() as stack:
        assert Asking(world.add_consumer("first"), stack).status(4) == 200
        sloth, before = Asking(world.add_consumer("sloth"), stack), resident_mib(pid)
        taken = [sloth.begun(LARGE_BYTES) for _ in range(ASKED)]
        large = [answer for answer, *_ in taken if answer.headers.get("content-length") is None]
        refused = [opened(answer.read(), *how)[0] for answer, *how in taken if answer not in large]
        assert (len(large), refused) == (4, [429] * (ASKED - 4))
        grown = resident_mib(pid) - before
        assert grown < 7 * LARGE_BYTES / MIB
        assert Asking(world.add_consumer("prompt"), stack).status(4) == 200
