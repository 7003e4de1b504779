"""Bodies of inferences that are changed from good ones, sent to a running enclave: what each is answered."""

import http.client
import json
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Final

from conformance.malformed import edits, structured
from tests.attacks.laborious import to_echo
from tests.e2e.world import Answer, Connection, World

from assurance.parsers import inference
from assurance.parsers.parser import Parts

#: By what a body may be refused. 503 is not among them: nobody else asks.
REFUSALS: Final = frozenset({400, 404, 409, 411, 413, 415, 422})
_AT_ONCE: Final = 4
_LENGTH: Final = "inference_header_content_length"


@cache
def _genuine() -> tuple[Parts, ...]:
    """Return bodies that the echo model answers, each with the length of its head, if it is in the binary form."""
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.5]}
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    documents = (
        {"id": "1", "inputs": [tensor], "outputs": outputs},
        {"inputs": [{**tensor, "shape": [1], "data": [1e-3]}], "parameters": {"priority": 1, "timeout": 5}},
    )
    binary, headers = to_echo(struct.pack("<4f", 1, 2, 3, 4))
    plain: tuple[Parts, ...] = tuple((b"", json.dumps(one).encode()) for one in documents)
    return (*plain, (headers[_LENGTH].encode(), binary))


@cache
def _kinds() -> tuple[Parts, ...]:
    return inference.kinds()[0].genuine


def bodies(seed: int, number: int) -> Iterator[Parts]:
    """Yield so many bodies of a seed; few of them are good ones still."""
    chance, edit = Random(seed), inference.kinds()[0].edit
    for _ in range(number):
        length, body = chance.choice(_genuine())
        kind = chance.random()
        if kind < 0.35:
            yield edit((length, body), chance)
        elif kind < 0.45:  # of other models
            yield edit(chance.choice(_kinds()), chance)
        elif kind < 0.75 and not length:
            yield b"", structured.edit(body, chance)
        else:
            yield length, edits.edit(body, chance)


@dataclass
class Thrown:
    """What was answered, and what was wrong with an answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    #: Inferences that were answered: an answer has as many as it has rows, and at least one.
    inferences: int = 0

    def add(self, parts: Parts, answer: Answer) -> None:
        """Count an answer: a refusal is one of ours, and no server error."""
        self.statuses[answer.status] += 1
        if answer.status == 200:
            self.inferences += max(1, rows(answer))
            return
        problem = answer.json() if answer.headers.get("content-type") == "application/problem+json" else {}
        if answer.status in REFUSALS and problem.get("status") == answer.status and problem.get("code"):
            self.refusals[f"{problem['code']}: {problem.get('reason')}"] += 1
        else:
            self.wrong.append(f"answered {answer.status} {answer.body[:200]!r} to {parts!r:.300}")

    def plus(self, other: "Thrown") -> "Thrown":
        """Return both together."""
        return Thrown(
            self.statuses + other.statuses,
            self.refusals + other.refusals,
            [*self.wrong, *other.wrong],
            self.inferences + other.inferences,
        )


def rows(answer: Answer) -> int:
    """Return the length of the first axis of what an echo model answered."""
    head = answer.body[: int(answer.headers.get("inference-header-content-length", len(answer.body)))]
    return int(json.loads(head)["outputs"][0]["shape"][0])


def throw(world: World, seed: int, number: int) -> Thrown:
    """Send so many bodies on a few connections at once. One that ends, as after a body too long, is opened again."""
    parts = [*bodies(seed, number)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda at: _throw(world, parts[at::_AT_ONCE]), range(_AT_ONCE))
        total = Thrown()
        for one in found:
            total = total.plus(one)
    return total


def _throw(world: World, mine: list[Parts]) -> Thrown:
    thrown = Thrown()
    link = world.connect()
    for length, body in mine:
        try:
            thrown.add((length, body), _sent(link, length, body))
        except (OSError, http.client.HTTPException, ValueError) as error:
            thrown.wrong.append(f"no answer ({error!r}) to {(length, body)!r:.300}")
            link.close()
            link = world.connect()
    link.close()
    world.connections.remove(link)
    return thrown


def _sent(link: Connection, length: bytes, body: bytes) -> Answer:
    if not length:
        return link.infer(body)
    named = {_LENGTH: length.decode("latin-1"), "content_type": "application/octet-stream"}
    return link.infer(body, **named)
