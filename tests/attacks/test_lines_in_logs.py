"""Whatever is sent to a custodian and an enclave, each line of their logs is one event of theirs."""

import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from tests.attacks.lent import MODEL, Lent, lent
from tests.attacks.raw import context_of, exchange
from tests.observations import Observed

from aigovtool.limits import MAX_LOG_VALUE_CHARS

MARK = "mark-9f31"
#: What makes a second line, moves a terminal, hides what stands before it, looks like a line of ours, or is long.
FORGED = '\r\n{"at": "2026-11-26", "level": "error", "event": "' + MARK + '"}\r\n'
TEXTS = [
    FORGED,
    f"\n{MARK}",
    f"\x1b[2J\x1b]0;{MARK}\x07",
    f"\x9b31m\x85{MARK}",
    f"\u202e{MARK}\u2066\u2028",
    f"\x00{MARK}",
    MARK * 100_000,
]
#: What a line may be about: by program.
EVENTS = {
    "custodian": {"serving on", "turned_away"},
    "enclave": {"SIMULATED TEE:", "model_loading", "model_loaded", f"serving {MODEL}", "turned_away", "instance_ended"},
}
#: What there are lines about where the machine gives less than a server needs.
OF_THE_MACHINE = {"little_memory", "memory_not_locked", "few_open_files", "no_files_in_memory"}


@dataclass
class Told:
    """What the two have written, to the last line, and how many requests they refused."""

    lines: dict[str, list[str]]
    refused: Counter[str]


def requests(path: str, text: str) -> Iterator[bytes]:
    """Yield requests that have a text wherever there may be one, as it is and as JSON."""
    raw, plain = text.encode(), b"Host: a\r\nConnection: close\r\n"
    yield b"GET /" + raw + b" HTTP/1.1\r\n" + plain + b"\r\n"
    yield b"GET /" + MARK.encode() + b" HTTP/1.1\r\n" + plain + b"X: " + raw + b"\r\n\r\n"
    yield b"GET /" + MARK.encode() + b" HTTP/1.1\r\n" + plain + b"User-Agent: " + raw[:100] + b"\r\n\r\n"
    yield b"GET / HTTP/1.1\r\nConnection: close\r\nHost: " + raw[:200] + b"\r\n\r\n"
    yield raw + b" / HTTP/1.1\r\n" + plain + b"\r\n"
    body = json.dumps({"ask_id": text, "reason": text, "id": text, "inputs": [{"name": text, "shape": [1]}]}).encode()
    head = f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    yield head.encode() + plain + b"\r\n" + body


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A deployment that was told all this, by strangers and by parties, and has ended."""
    with lent(tmp_path_factory.mktemp("lines")) as made:
        made.start_enclave()
        refused = tell(made)
        made.run("borrower", "add", FORGED, "-o", "x.json", code=3)
        for name in ("enclave", "custodian"):
            with socket.create_connection(("127.0.0.1", made.ports[name])) as link:
                link.sendall(FORGED.encode() * 10)
                link.recv(100)
            refused[name] += 1
            if name == "custodian":  # a reason is free text, of an operator
                made.run("stop", "--consumer", "ward7", "--reason", FORGED, "--wait", 0)
            assert made.end(name) == 0
        return Told({name: made.log(name).splitlines() for name in EVENTS}, refused)


def tell(made: Lent) -> Counter[str]:
    """Send all texts to both servers in all places, as a party and as a stranger; count what is refused."""
    parties = [
        ("custodian", "/v1/asks", context_of(made.path("custodian/operator.json"))),
        ("custodian", "/v1/asks", context_of(None)),
        ("enclave", f"/v2/models/{MODEL}/infer", context_of(made.path("ward7.json"))),
    ]
    sent = [(*party, request) for text in TEXTS for party in parties for request in requests(party[1], text)]
    with ThreadPoolExecutor(48) as pool:
        found = list(pool.map(lambda one: (one[0], exchange(made.ports[one[0]], one[2], one[3])), sent))
    assert all(len(answers) == 1 and answers[0].status >= 400 for _, answers in found)
    return Counter(name for name, _ in found)


def parsed(lines: list[str]) -> list[dict[str, Any]]:
    """Return lines of a log; anything else than one JSON object a line is an error."""
    found = [json.loads(line) for line in lines]
    assert all(isinstance(line, dict) for line in found)
    return found


@pytest.mark.attack(36)
@pytest.mark.parametrize("name", EVENTS)
def test_every_line_is_an_event_and_none_is_forged(told: Told, name: str, observed: Observed) -> None:
    """Each line parses, is one of the few events that there were, is short, and has nothing that was sent."""
    lines = parsed(told.lines[name])
    about = {next((one for one in EVENTS[name] if line["event"].startswith(one)), line["event"]) for line in lines}
    assert about - OF_THE_MACHINE == EVENTS[name]
    written = "\n".join(told.lines[name])
    assert MARK not in written
    assert all(character.isprintable() for line in told.lines[name] for character in line)
    assert all(len(value) <= MAX_LOG_VALUE_CHARS + 30 for line in lines for value in line.values())
    observed.figure(f"lines of the {name}", len(lines))


@pytest.mark.attack(36)
@pytest.mark.parametrize("name", EVENTS)
def test_every_refusal_is_counted_in_few_lines(told: Told, name: str, observed: Observed) -> None:
    """The counts add up to what was refused, on the wire and behind it; the lines do not grow with them."""
    lines = [line["event"] for line in parsed(told.lines[name]) if line["event"].startswith("turned_away")]
    counts = [int(number) for line in lines for number in re.findall(r"=(\d+)(?= |$)", line)]
    assert sum(counts) == told.refused[name] > 40
    assert len(lines) <= 4
    assert {line.split(" ")[1] for line in lines} == {"address=127.0.0.1"}
    observed.figure(f"requests that the {name} refused", told.refused[name])
