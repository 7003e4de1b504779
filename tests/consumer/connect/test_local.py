"""Who may ask: programs of this user on this machine; no page of another site, and no other user."""

import os

import httpx
import pytest
from tests.consumer.conftest import FakeEnclave, World
from tests.consumer.connect.kit import PATH, Asking, connected, in_json, reason_of

from aigovtool.consumer.connect import users

FRIEND = "https://notebook.example"


def port_of(asking: Asking) -> str:
    """Return the port that the gateway listens on."""
    return asking.running.url.rpartition(":")[2]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", "localhost"]
)
async def test_a_name_that_is_not_of_loopback_is_refused(host: str, world: World, enclave: FakeEnclave) -> None:
    """Attack (DNS rebinding): a page's own name is pointed at 127.0.0.1, and the browser lets it read the answers."""
    async with connected(world, enclave) as asking:
        answer = await asking.infer(host=host.format(port=port_of(asking)))
        page = await asking.program.get("/", headers={"host": host.format(port=port_of(asking))})
    assert (answer.status_code, reason_of(answer)) == (403, "foreign_host")
    assert page.status_code == 403
    assert enclave.charged == []


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
async def test_the_names_of_loopback_are_taken(host: str, world: World, enclave: FakeEnclave) -> None:
    """Whichever a program uses."""
    async with connected(world, enclave) as asking:
        assert (await asking.infer(host=host.format(port=port_of(asking)))).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "https://127.0.0.1:{port}"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
async def test_a_page_of_another_site_is_refused(fields: dict[str, str], world: World, enclave: FakeEnclave) -> None:
    """Attack: a page that is open in a browser here asks; it could not read the answer, but each would be charged."""
    async with connected(world, enclave) as asking:
        named = {name: value.format(port=port_of(asking)) for name, value in fields.items()}
        answer = await asking.infer(None, **named)
    assert (answer.status_code, reason_of(answer)) == (403, "foreign_origin")
    assert enclave.charged == []


async def test_no_answer_lets_another_origin_read_it(world: World, enclave: FakeEnclave) -> None:
    """Not one header field of CORS, unless somebody asked for it."""
    async with connected(world, enclave) as asking:
        answers = [
            await asking.infer(),
            await asking.program.get("/aigovtool/status"),
            await asking.program.options(PATH, headers={"origin": FRIEND}),
        ]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]
    assert answers[-1].status_code == 403


async def test_an_origin_that_was_allowed_may_ask_and_read(world: World, enclave: FakeEnclave) -> None:
    """That one, exactly; the browser asks first."""
    async with connected(world, enclave, origins=[FRIEND]) as asking:
        asked = {"origin": FRIEND, "access-control-request-method": "POST", "sec-fetch-site": "cross-site"}
        before = await asking.program.options(PATH, headers=asked)
        answer = await asking.infer(origin=FRIEND, sec_fetch_site="cross-site")
        other = await asking.infer(origin=FRIEND + ".evil.example")
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (204, FRIEND)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, FRIEND)
    assert "aigovtool-receipt" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "origin"
    assert other.status_code == 403


async def test_the_page_of_the_gateway_may_ask(world: World, enclave: FakeEnclave) -> None:
    """It says so: same origin."""
    async with connected(world, enclave) as asking:
        own = {"origin": asking.running.url, "sec-fetch-site": "same-origin"}
        assert (await asking.program.get("/aigovtool/status", headers=own)).status_code == 200


# -- Users of one machine -----------------------------------------------------------------------------


async def test_another_user_of_the_machine_is_refused(
    world: World, enclave: FakeEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: another user connects to the port, and asks in the name of whoever started the gateway."""
    async with connected(world, enclave) as asking:
        monkeypatch.setattr(os, "getuid", lambda: 4242)
        monkeypatch.setattr(users, "_ROOT", 4243)
        async with httpx.AsyncClient(base_url=asking.running.url, trust_env=False) as stranger:
            answers = [await stranger.post(PATH, content=in_json()), await stranger.get("/aigovtool/status")]
    assert [(answer.status_code, reason_of(answer)) for answer in answers] == [(403, "foreign_user")] * 2
    assert enclave.charged == []


async def test_other_users_may_ask_if_that_is_wanted(
    world: World, enclave: FakeEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a machine that belongs to one department, for example."""
    monkeypatch.setattr(users, "is_ours", lambda *_: False)
    async with connected(world, enclave, all_users=True) as asking:
        assert (await asking.infer()).status_code == 200


async def test_whose_a_connection_is_is_looked_up_once(
    world: World, enclave: FakeEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has a line for each socket of the machine."""
    looks: list[object] = []
    real = users.is_ours

    def looked(peer: tuple[str, int], own: tuple[str, int]) -> bool:
        looks.append((peer, own))
        return real(peer, own)

    monkeypatch.setattr(users, "is_ours", looked)
    async with connected(world, enclave) as asking:
        for _ in range(5):
            assert (await asking.infer()).status_code == 200
    assert len(looks) == 1
