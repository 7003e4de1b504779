"""Each client that people already have, for each feature: the cells of the table in docs/clients.md."""

import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page
from tests.clients import matrix
from tests.clients.deployment import Gateway
from tests.clients.programs import PROGRAMS, Program
from tests.e2e.world import MODEL

from aigovtool.consumer import Client

DOCS = Path(__file__).resolve().parents[2] / "docs" / "clients.md"
NUMBERS = np.array([[1, 2], [-0.5, 1e-3]], np.float32)
TEXTS = ["", "a b", "\u00e4\u4f60\U0001f600", "x" * 300]


def cells(feature: str) -> list[type[Program]]:
    """Return the clients that have a feature."""
    return [program for program in PROGRAMS if matrix.has(program, feature)]


def names(program: type[Program]) -> str:
    """Return how a client is called in a test's name."""
    return program.name.replace(" ", "-")


def each(feature: str) -> pytest.MarkDecorator:
    """Have a test ask each client that has a feature."""
    found = [pytest.param(one, id=names(one), marks=pytest.mark.needs(*one.needs)) for one in cells(feature)]
    return pytest.mark.parametrize("kind", found)


def left(gateway: Gateway) -> int:
    """Ask for one row, as somebody else, and return how many units are left then."""
    with Client.connect(gateway.enclave, gateway.credential, allow_simulated=True) as client:
        return client.infer(MODEL, {"x": np.zeros((1, 2), np.float32), "s": ["a"]}).units_remaining


@pytest.fixture
def program(kind: type[Program], gateway: Gateway, page: Callable[[], Page]) -> Program:
    """The client."""
    return kind(gateway, page)


@each("metadata")
def test_it_finds_the_model(program: Program) -> None:
    """Its inputs and its outputs, by their names."""
    assert program.describe() == (["x", "s"], ["y", "t"])


@each("JSON")
def test_it_asks_in_json(program: Program) -> None:
    """Numbers and texts."""
    asked = program.ask(NUMBERS, ["a"], binary=False)
    assert asked.refusal is None
    assert asked.numbers is not None
    assert np.array_equal(asked.numbers, 2 * NUMBERS)
    assert asked.texts == ["a"]


@each("binary")
def test_it_asks_in_the_binary_form(program: Program) -> None:
    """Bit for bit, also a very small number and a zero with a sign."""
    numbers = np.array([[1 / 3, 1e38 / 8], [-0.0, 2**-126]], np.float32)
    asked = program.ask(numbers, ["a"], binary=True)
    assert asked.refusal is None
    assert asked.numbers is not None
    assert asked.numbers.astype(np.float32).tobytes() == (numbers + numbers).tobytes()


@each("BYTES")
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_it_asks_with_texts(program: Program, binary: bool) -> None:  # noqa: FBT001 - case
    """They come back as they were, in both forms."""
    if not binary and not matrix.has(type(program), "JSON"):
        binary = True
    asked = program.ask(NUMBERS, TEXTS, binary=binary)
    assert (asked.refusal, asked.texts) == (None, TEXTS)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, of what tritonclient does
@each("large")
def test_it_asks_for_much(program: Program) -> None:
    """Four megabytes each way."""
    numbers = np.arange(1_000_000, dtype=np.float32).reshape(-1, 2)
    asked = program.ask(numbers, ["a"], binary=True)
    assert asked.refusal is None
    assert asked.numbers is not None
    assert np.array_equal(asked.numbers, 2 * numbers)


@each("errors")
def test_it_is_told_why_not(program: Program, gateway: Gateway) -> None:
    """Three columns where the model takes two: in words, and nothing is charged."""
    before = left(gateway)
    asked = program.ask(np.zeros((1, 3), np.float32), ["a"], binary=True)
    assert asked.numbers is None
    assert asked.refusal is not None
    assert "'x'" in asked.refusal or "shape" in asked.refusal or "dimension" in asked.refusal
    assert left(gateway) == before - 1


@each("request id")
def test_it_is_charged_once_for_what_it_repeats(program: Program, gateway: Gateway) -> None:
    """Under a name of its own, three times; the same answer each time, and two rows charged."""
    name, before = secrets.token_hex(8), left(gateway)
    asked = [program.ask(NUMBERS, ["a"], binary=True, request_id=name) for _ in range(3)]
    assert [one.refusal for one in asked] == [None] * 3
    assert len({one.numbers.tobytes() for one in asked if one.numbers is not None}) == 1
    assert left(gateway) == before - len(NUMBERS) - 1


@each("concurrency")
def test_it_asks_for_many_at_once(program: Program) -> None:
    """Each request has its own answer."""
    wanted = [np.full((1, 2), number, np.float32) for number in range(24)]
    found = program.ask_many(wanted)
    assert [None if one.numbers is None else one.numbers.ravel().tolist() for one in found] == [
        [2 * number, 2 * number] for number in range(24)
    ]


def test_the_table_is_that_of_these_tests() -> None:
    """`python -m tests.clients` writes it anew."""
    assert DOCS.read_text(encoding="utf-8") == matrix.page()
