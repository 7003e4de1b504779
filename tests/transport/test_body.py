"""Long bodies: parsing one takes the event loop some milliseconds, and others are served between two of them."""

import asyncio
from collections import Counter

import pytest

from aigovtool.codec import Message, decode, encode
from aigovtool.errors import InvalidValueError
from aigovtool.transport import body
from aigovtool.transport.body import Parser


class Letter(Message):
    """A body."""

    text: str


async def parsed_in(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Parse bodies that are there at the same moment; return how many were parsed in each turn of the loop."""
    turn, found = 0, Counter[int]()

    def counted(data: bytes, kind: type[Letter], *, max_bytes: int) -> Letter:
        found[turn] += 1
        return decode(data, kind, max_bytes=max_bytes)

    async def turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(body, "decode", counted)
    clock, parser = asyncio.create_task(turns()), Parser()
    read = await asyncio.gather(*(parser.parsed(encode(Letter(text=text)), Letter, 1 << 20) for text in texts))
    clock.cancel()
    assert [one.text for one in read] == texts
    return found


async def test_one_long_body_is_parsed_in_a_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: thirty are sent but for their last bytes, and then these; an operator's stop comes in between."""
    found = await parsed_in(["a" * 100_000 + str(number) for number in range(30)], monkeypatch)
    assert found.total() == 30
    assert max(found.values()) == 1


async def test_short_ones_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renewals are short, and there are hundreds of them in a second."""
    assert len(await parsed_in([str(number) for number in range(30)], monkeypatch)) == 1


async def test_one_that_is_refused_holds_up_nobody() -> None:
    """The next one has its turn."""
    parser = Parser()
    bodies = [b'{"text":"' + b"a" * 20_000 + b'","text":""}', b"[" + b"1," * 20_000 + b"1]", encode(Letter(text="a"))]
    found = await asyncio.gather(*(parser.parsed(one, Letter, 1 << 20) for one in bodies), return_exceptions=True)
    assert isinstance(found[1], InvalidValueError)
    assert [isinstance(one, Exception) for one in found] == [True, True, False]
    assert await parser.parsed(encode(Letter(text="b" * 20_000)), Letter, 1 << 20) == Letter(text="b" * 20_000)
