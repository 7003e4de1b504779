"""The HTTP surface: who may call what, packages in and out, the stream; over real mutual TLS."""

import asyncio
import fcntl
import json
import os
import stat
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import pytest
from openapi_spec_validator import validate
from sqlalchemy import event
from tests.custodian.conftest import (
    BORROWER,
    CONSUMER,
    MODEL,
    YEAR_MS,
    Bench,
    Enclave,
    message_id,
    nothing_but_identity,
)

from aigovtool.codec import decode, encode
from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.sign import SigningKey, VerifyKey, seal
from aigovtool.crypto.x509 import from_pem, issue_client_certificate, new_authority
from aigovtool.custodian.api import custodian_application
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.clock import HostClock
from aigovtool.custodian.service import packages, proofs, views
from aigovtool.custodian.store import log
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.timekeeping import ledger_clock
from aigovtool.ids import BorrowerId, Digest, InstanceId, digest_of, key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.checkpoint import Checkpoint, sign_checkpoint
from aigovtool.ledger.entry import CommandRefused, Entry, PartyRole, Refusable, Refused, StopTarget, Wiped
from aigovtool.ledger.merkle import verify_consistency
from aigovtool.operator.client import OperatorClient
from aigovtool.operator.connection import MAX_ANSWER_BYTES
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages
from aigovtool.protocol.commands import COMMAND, AskRequest
from aigovtool.protocol.messages import Listen, Push
from aigovtool.protocol.views import LogFound, LogPage
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import client_context, server_context

JSON = {"content-type": "application/json"}
ABSENT = Digest("sha256:" + "0" * 64)
NOBODY, CONSUMERS, BORROWERS, OPERATORS, REVOKED = "nobody", "consumer", "borrower", "operator", "revoked operator"
CALLERS = (NOBODY, CONSUMERS, BORROWERS, OPERATORS, REVOKED)


@dataclass
class Api:
    """The custodian's server, and a client for each caller."""

    bench: Bench
    url: str
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)

    def connect(self, certificate: bytes | None = None, key: SigningKey | None = None) -> httpx.AsyncClient:
        context = client_context(
            [self.bench.custodian.keys.tls_ca], credential=[certificate] if certificate else [], key=key
        )
        return httpx.AsyncClient(base_url=self.url, verify=context, timeout=20, trust_env=False)

    @property
    def operator(self) -> httpx.AsyncClient:
        return self.clients[OPERATORS]


def certificate_of(pem: str | None) -> bytes:
    (certificate,) = from_pem((pem or "").encode())
    return certificate


@pytest.fixture
async def api(lent: Bench) -> AsyncIterator[Api]:
    keys = lent.custodian.keys
    tls = server_context([keys.tls_certificate], keys.tls, [keys.credentials_ca])
    app = custodian_application(lent.custodian, clock_ms=await ledger_clock(lent.custodian))
    with bind_loopback() as listener:
        server = HttpServer(app, listener, tls)
        await server.start()
        made = Api(lent, f"https://127.0.0.1:{server.address[1]}")
        bobs, ann, ben = (SigningKey.generate() for _ in range(3))
        revoked = await lent.add_party(PartyRole.OPERATOR, "bob", bobs)
        consumer = await lent.add_party(PartyRole.CONSUMER, "ann", ann, BORROWER)
        borrower = await lent.add_party(PartyRole.BORROWER, "ben", ben)
        await lent.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="bob"))
        made.clients = {
            NOBODY: made.connect(),
            CONSUMERS: made.connect(certificate_of(consumer.certificate), ann),
            BORROWERS: made.connect(certificate_of(borrower.certificate), ben),
            OPERATORS: made.connect(certificate_of(lent.operator.certificate), lent.key),
            REVOKED: made.connect(certificate_of(revoked.certificate), bobs),
        }
        yield made
        for client in made.clients.values():
            await client.aclose()
        for instance in lent.custodian.hub.connected():
            lent.custodian.hub.cut(instance)
        await server.stop()


# --- Who may call what ---------------------------------------------------------------------------------------


def for_all(status: int) -> tuple[int, ...]:
    return (status,) * 5


#: Route -> status for: no credential, consumer, borrower, operator, revoked operator.
OPERATORS_ONLY = (401, 403, 403, 200, 403)
EXPECTED: dict[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/openapi.json"): for_all(200),
    ("GET", "/v1/health"): for_all(200),
    ("GET", "/v1/key-set"): for_all(200),
    ("GET", "/v1/packages/{package}"): for_all(404),
    # Whoever holds a checkpoint may show it; `{}` is none.
    ("GET", "/v1/checkpoint"): for_all(200),
    ("POST", "/v1/checkpoints"): for_all(422),
    ("POST", "/v1/cosignatures"): for_all(422),
    ("GET", "/v1/witnesses"): for_all(200),
    # Proofs are hashes; without a query there is nothing to prove.
    ("GET", "/v1/log/inclusion"): for_all(422),
    ("GET", "/v1/log/consistency"): for_all(422),
    # Nobody's lease.
    ("GET", "/v1/leases/{lease_id}/proof"): (401, 404, 404, 404, 403),
    # An enclave is known by its signatures, not by its connection; `{}` is no signed message.
    ("POST", "/v1/boot/challenge"): for_all(422),
    ("POST", "/v1/boot"): for_all(422),
    ("POST", "/v1/boot/again"): for_all(422),
    ("POST", "/v1/release"): for_all(422),
    ("POST", "/v1/renew"): for_all(422),
    ("POST", "/v1/wiped"): for_all(422),
    ("POST", "/v1/listen"): for_all(422),
    # A consumer's request for its own scope; not the borrower's own, so 403 for it too.
    ("POST", "/v1/asks"): (401, 200, 403, 403, 403),
    ("GET", "/v1/asks/{ask_id}"): (401, 404, 404, 403, 403),
    ("GET", "/v1/self"): (401, 200, 200, 403, 403),
    ("GET", "/v1/self/certificate"): (401, 200, 200, 200, 403),
    ("POST", "/v1/commands"): OPERATORS_ONLY,
    # Without saying whose: the operator gets as far as that.
    ("GET", "/v1/certificate"): (401, 403, 403, 422, 422),
    # An upload of other bytes than announced: the operator gets as far as the digest.
    ("PUT", "/v1/packages/{package}"): (401, 403, 403, 422, 403),
    ("GET", "/v1/parties"): OPERATORS_ONLY,
    ("GET", "/v1/models"): OPERATORS_ONLY,
    ("GET", "/v1/budgets"): OPERATORS_ONLY,
    ("GET", "/v1/usage"): OPERATORS_ONLY,
    ("GET", "/v1/enclaves"): OPERATORS_ONLY,
    ("GET", "/v1/stops"): OPERATORS_ONLY,
    ("GET", "/v1/gap"): OPERATORS_ONLY,
    ("GET", "/v1/asks"): OPERATORS_ONLY,
    ("GET", "/v1/appraisal-policy"): OPERATORS_ONLY,
    ("GET", "/v1/log/head"): OPERATORS_ONLY,
    ("GET", "/v1/log/entries"): OPERATORS_ONLY,
    # PostgreSQL has programs of its own for that, so there it is a conflict.
    ("GET", "/v1/ledger"): OPERATORS_ONLY,
    # Without naming a kind: the operator gets as far as that.
    ("GET", "/v1/log/found"): (401, 403, 403, 422, 422),
}


def body_of(bench: Bench, method: str, path: str) -> dict[str, Any]:
    """Return what httpx is to send: a good body where a route takes one from a party."""
    if method == "GET":
        return {}
    if method == "PUT":
        return {"content": b"other bytes"}
    if path == "/v1/commands":
        stop = acts.Stop(target=StopTarget.MODEL, value=MODEL, reason="drill")
        return {"content": encode(seal(COMMAND, bench.order(stop), bench.key)), "headers": JSON}
    if path == "/v1/asks":
        scope = Scope(model=MODEL, borrower=BORROWER, consumer="ann")  # type: ignore[arg-type]
        ask = AskRequest(ask_id=message_id(), scope=scope, units=1, reason="matrix")
        return {"content": encode(ask), "headers": JSON}
    return {"content": b"{}", "headers": JSON}


@pytest.mark.fault(14)
async def test_every_route_is_for_exactly_its_callers(api: Api, ledger: str | None) -> None:
    """Each route of the description, for each caller: a new route without a line above fails here."""
    description = (await api.clients[NOBODY].get("/openapi.json")).json()
    listed = {(method.upper(), path) for path, item in description["paths"].items() for method in item}
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for method, path in sorted({*listed, ("GET", "/openapi.json")}):
        statuses = []
        for caller in CALLERS:
            url = path.format(package=ABSENT, ask_id=message_id(), lease_id=message_id())
            answer = await api.clients[caller].request(method, url, **body_of(api.bench, method, path))
            statuses.append(answer.status_code)
            if answer.is_error:
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["status"] == answer.status_code
        found[method, path] = tuple(statuses)
    copied = (401, 403, 403, 200 if ledger is None else 409, 403)
    assert found == {**EXPECTED, ("GET", "/v1/ledger"): copied}


async def test_the_description_says_who_may_call(api: Api) -> None:
    """It is valid OpenAPI, and what it says about callers is what the matrix above found."""
    description = (await api.clients[NOBODY].get("/openapi.json")).json()
    validate(description)
    for path, item in description["paths"].items():
        for method, operation in item.items():
            statuses = EXPECTED[method.upper(), path]
            who = operation["x-aigovtool-who"]
            assert (who == ["anyone"]) is (statuses[0] != 401), path
            assert ("operator" in who) is (statuses[0] == 401 and statuses[3] != 403), path


async def test_why_a_caller_is_refused_is_said_in_a_code(api: Api) -> None:
    """401 without a credential, 403 `wrong_role` for another role, 403 `not_enrolled` for a revoked one."""
    answers = {
        caller: (await api.clients[caller].get("/v1/parties")).json() for caller in CALLERS if caller != OPERATORS
    }
    codes = {caller: (answer["code"], answer.get("reason")) for caller, answer in answers.items()}
    assert codes[NOBODY][0] == "unauthenticated"
    assert codes[CONSUMERS] == codes[BORROWERS] == ("forbidden", "wrong_role")
    assert codes[REVOKED] == ("forbidden", "not_enrolled")


async def test_a_refused_credential_leaves_one_line_for_each_route(api: Api) -> None:
    """Of a revoked operator and of another role, on every route there is; and no line of a stranger."""
    routes = [(method, path) for (method, path), statuses in EXPECTED.items() if statuses[0] == 401]
    expected = []
    before = len(await api.bench.log())
    for method, path in routes:
        url = path.format(package=ABSENT, ask_id=message_id(), lease_id=message_id())
        for caller in (NOBODY, CONSUMERS, NOBODY, CONSUMERS):
            await api.clients[caller].request(method, url)
        sent = [await api.clients[REVOKED].request(method, url, **body_of(api.bench, method, path)) for _ in range(2)]
        if (reason := sent[0].json()["reason"]) in {"not_enrolled", "wrong_role"}:
            expected.append((Refusable.OPERATOR, "bob", f"{method} {path}", "forbidden", reason))
        if EXPECTED[method, path][1] == 403:
            expected.append((Refusable.CONSUMER, "ann", f"{method} {path}", "forbidden", "wrong_role"))
    lines = [line for line in (await api.bench.log())[before:] if isinstance(line, Refused)]
    assert sorted((line.role, line.name, line.act, line.code, line.reason) for line in lines) == sorted(expected)
    assert len(expected) > 30


async def test_a_refused_signature_on_an_operators_connection_is_in_the_log(api: Api) -> None:
    """A second signature that is nobody's, an order for another custodian: once, however often it is tried."""
    bench = api.bench
    tries: list[tuple[tuple[SigningKey, ...], dict[str, Any], str]] = [
        ((bench.key, SigningKey.generate()), {}, "wrong_key"),
        ((bench.key,), {"custodian": key_id_of(b"another custodian")}, "wrong_command"),
    ]
    stop = acts.Stop(target=StopTarget.ALL, value="", reason="drill")
    for keys, changes, reason in tries:
        before = len(await bench.log())
        for _ in range(3):
            order = encode(seal(COMMAND, bench.order(stop, **changes), *keys))
            answer = await api.operator.post("/v1/commands", content=order, headers=JSON)
            assert answer.json()["reason"] == reason
        assert (await bench.log())[before:] == [
            Refused(role=Refusable.OPERATOR, name="alice", act="POST /v1/commands", code="bad_signature", reason=reason)
        ]


async def test_a_refused_command_is_in_the_log_once(api: Api) -> None:
    """By its digest, and not once more as a refused request."""
    before = len(await api.bench.log())
    lift = acts.Resume(target=StopTarget.ALL, value="", reason="drill")
    order = encode(seal(COMMAND, api.bench.order(lift), api.bench.key))
    for _ in range(2):
        assert (await api.operator.post("/v1/commands", content=order, headers=JSON)).status_code == 409
    assert [type(line) for line in (await api.bench.log())[before:]] == [CommandRefused]


async def test_a_large_co_signature_is_not_read(api: Api) -> None:
    """Anybody may send one, so the bound is that of a note."""
    stranger = api.clients[NOBODY]
    statuses = [
        (await stranger.post("/v1/cosignatures", json={"checkpoint": "x" * size})).status_code
        for size in (4_096, 4_097, 20_000)
    ]
    assert statuses == [422, 422, 413]


async def test_an_expired_credential_is_refused_by_the_custodians_time(api: Api) -> None:
    """The handshake ignores times; the custodian does not."""
    assert (await api.operator.get("/v1/stops")).status_code == 200
    api.bench.now_ms += YEAR_MS + 1_000
    answer = await api.operator.get("/v1/stops")
    assert (answer.status_code, answer.json()["reason"]) == (401, "credential_expired")
    assert (await api.bench.log())[-1] == Refused(
        role=Refusable.OPERATOR,
        name="alice",
        act="GET /v1/stops",
        code="unauthenticated",
        reason="credential_expired",
    )


async def test_a_clock_that_is_put_back_revives_no_credential(api: Api) -> None:
    """What the ledger's time has passed is over, also for a custodian that is started anew on the same ledger."""
    api.bench.now_ms += YEAR_MS + 1_000
    await api.bench.custodian.database.run(api.bench.custodian.now)
    api.bench.now_ms -= YEAR_MS
    answer = await api.operator.get("/v1/stops")
    assert (answer.status_code, answer.json()["reason"]) == (401, "credential_expired")
    passed_ms = (await ledger_clock(api.bench.custodian))()
    api.bench.custodian.database.close()
    api.bench.custodian = open_custodian(api.bench.directory)
    api.bench.custodian.clock = HostClock(lambda: api.bench.now_ms, lambda: 0)
    clock_ms = await ledger_clock(api.bench.custodian)
    assert clock_ms() == passed_ms == api.bench.now_ms + YEAR_MS
    api.bench.now_ms += YEAR_MS + 7
    await api.bench.custodian.database.run(api.bench.custodian.now)
    assert clock_ms() == passed_ms + 7


async def test_a_credential_of_later_is_refused_by_the_custodians_time(api: Api) -> None:
    """From its beginning on, to the millisecond."""
    keys, begins_ms = api.bench.custodian.keys, api.bench.now_ms // 1000 * 1000 + 60_000
    later = issue_client_certificate(
        keys.credentials,
        keys.credentials_ca,
        api.bench.key.public,
        IdentityKind.OPERATOR,
        "alice",
        not_before_ms=begins_ms,
        not_after_ms=begins_ms + YEAR_MS,
    )
    async with api.connect(later, api.bench.key) as client:
        api.bench.now_ms = begins_ms - 1
        answer = await client.get("/v1/stops")
        assert (answer.status_code, answer.json()["reason"]) == (401, "credential_not_yet_valid")
        api.bench.now_ms = begins_ms
        assert (await client.get("/v1/stops")).status_code == 200


async def test_a_certificate_of_another_authority_gets_no_connection(api: Api) -> None:
    """The name alone proves nothing: alice's, issued by somebody else, does not pass the handshake."""
    authority, key = SigningKey.generate(), SigningKey.generate()
    span = {"not_before_ms": api.bench.now_ms - 1_000_000, "not_after_ms": api.bench.now_ms + YEAR_MS}
    ca = new_authority(authority, "aigovtool credentials", **span)
    forged = issue_client_certificate(authority, ca, key.public, IdentityKind.OPERATOR, "alice", borrower=None, **span)
    async with api.connect(forged, key) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/v1/stops")


async def test_a_replaced_key_is_refused_although_its_certificate_is_genuine(api: Api) -> None:
    """The ledger knows the key of each name; a second certificate for the name does not help."""
    keys, key = api.bench.custodian.keys, SigningKey.generate()
    second = issue_client_certificate(
        keys.credentials,
        keys.credentials_ca,
        key.public,
        IdentityKind.OPERATOR,
        "alice",
        not_before_ms=api.bench.now_ms - 1_000_000,
        not_after_ms=api.bench.now_ms + YEAR_MS,
    )
    async with api.connect(second, key) as client:
        answer = await client.get("/v1/stops")
    assert (answer.status_code, answer.json()["reason"]) == (403, "not_enrolled")


# --- Packages ------------------------------------------------------------------------------------------------


def files_of(bench: Bench) -> list[str]:
    return sorted(path.name for path in bench.custodian.packages.iterdir())


async def test_an_upload_with_another_digest_leaves_nothing(api: Api) -> None:
    """Neither under its name nor as a partial file; one that was there before stays."""
    before = files_of(api.bench)
    answer = await api.operator.put(f"/v1/packages/{ABSENT}", content=b"other bytes")
    assert (answer.status_code, answer.json()["reason"]) == (422, "upload_digest")
    existing = await api.operator.put(f"/v1/packages/{api.bench.package}", content=b"other bytes")
    assert existing.status_code == 422
    assert files_of(api.bench) == before
    whole = await api.clients[NOBODY].get(f"/v1/packages/{api.bench.package}")
    assert digest_of(whole.content) == api.bench.package


async def test_a_package_is_named_by_its_digest_only(api: Api) -> None:
    """No other spelling, and nothing that could be a path, reaches the disk."""
    before = files_of(api.bench)
    for name in ("sha256:..", "sha256:" + "A" * 64, "..%2f..%2fledger.db", "md5:" + "0" * 64):
        for answer in (
            await api.clients[NOBODY].get(f"/v1/packages/{name}"),
            await api.operator.put(f"/v1/packages/{name}", content=b"x"),
        ):
            assert answer.status_code in {400, 404, 422}, name
    assert files_of(api.bench) == before


async def test_an_upload_is_there_whole_and_again(api: Api) -> None:
    """The same upload twice is the same package."""
    content = os.urandom(3 << 20)
    name = digest_of(content)
    for _ in range(2):
        answer = await api.operator.put(f"/v1/packages/{name}", content=content)
        assert answer.json() == {"package": name, "package_bytes": len(content)}
    answer = await api.clients[NOBODY].get(f"/v1/packages/{name}")
    assert answer.content == content
    assert answer.headers["accept-ranges"] == "bytes"


async def test_an_upload_is_durable_before_it_is_answered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are synced before it has its name, and the directory that holds the name afterwards."""
    content = os.urandom(1000)
    name = digest_of(content)
    target = packages.path_of(api.bench.custodian, name)
    synced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), target.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    assert (await api.operator.put(f"/v1/packages/{name}", content=content)).status_code == 200
    assert synced == [(False, False), (True, True)]


async def test_what_a_killed_custodian_left_of_an_upload_is_removed_by_the_next(api: Api) -> None:
    """And nothing else: custodians may share the directory, and an upload that is under way at another one stays."""
    directory = api.bench.custodian.packages
    before = files_of(api.bench)
    (directory / ".upload-0123456789abcdef").write_bytes(b"half")
    content = os.urandom(1000)
    seen: list[list[str]] = []

    async def slowly() -> AsyncIterator[bytes]:
        yield content[:500]
        packages.remove_left(directory)
        seen.append([name for name in files_of(api.bench) if name not in before])
        yield content[500:]

    await packages.store(api.bench.custodian, digest_of(content), slowly())
    ((under_way,),) = seen
    assert under_way.startswith(".upload-")
    assert under_way != ".upload-0123456789abcdef"
    kept = packages.path_of(api.bench.custodian, digest_of(content))
    assert kept.read_bytes() == content
    kept.unlink()
    assert files_of(api.bench) == before


async def test_a_custodian_removes_what_was_left_of_uploads_when_it_starts(api: Api) -> None:
    """The packages themselves stay, and so does what somebody else holds."""
    directory, before = api.bench.custodian.packages, files_of(api.bench)
    held, left = directory / ".upload-held", directory / ".upload-left"
    left.write_bytes(b"half")
    with held.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        api.bench.custodian.database.close()
        api.bench.custodian = open_custodian(api.bench.directory)
        assert files_of(api.bench) == [".upload-held", *before]
    packages.remove_left(directory)
    assert files_of(api.bench) == before
    packages.remove_left(directory / "absent")


async def test_a_broken_upload_leaves_nothing(api: Api) -> None:
    """A client that goes away in the middle."""
    before = files_of(api.bench)

    async def half() -> AsyncIterator[bytes]:
        yield b"first"
        raise ConnectionError("gone")

    name = digest_of(b"first and second")
    with pytest.raises((ConnectionError, httpx.TransportError)):
        await api.operator.put(f"/v1/packages/{name}", content=half(), headers={"content-length": "16"})
    for _ in range(200):
        if files_of(api.bench) == before:
            break
        await asyncio.sleep(0.01)
    assert files_of(api.bench) == before


RANGES: dict[str, tuple[int, int | None]] = {
    "bytes=0-": (0, None),
    "bytes=0-0": (0, 1),
    "bytes=10-19": (10, 20),
    "bytes=100-": (100, None),
    "bytes=5-999999999": (5, None),
}
BAD_RANGES = (
    "",
    "bytes",
    "bytes=",
    "bytes=-",
    "bytes=-5",
    "bytes=5-4",
    "bytes=999999999-",
    "bytes=0-1,3-4",
    "bytes=+1-2",
    "bytes=1_0-20",
    "bytes=0x1-2",
    "bytes= 0-1",
    "BYTES=0-1",
    "items=0-1",
    "bytes=" + "9" * 400 + "-",
)


async def test_a_range_is_served_exactly(api: Api) -> None:
    """206 with the bytes that were asked for, cut at the end of the package."""
    url = f"/v1/packages/{api.bench.package}"
    whole = (await api.clients[NOBODY].get(url)).content
    for asked, (start, end) in RANGES.items():
        answer = await api.clients[NOBODY].get(url, headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, whole[start:end]), asked
        stop = len(whole) if end is None else end
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"


async def test_any_other_range_is_refused(api: Api) -> None:
    """Several ranges, suffixes and everything that would have to be guessed."""
    url = f"/v1/packages/{api.bench.package}"
    answers = {asked: await api.clients[NOBODY].get(url, headers={"range": asked}) for asked in BAD_RANGES}
    refusals = {asked: (answer.status_code, answer.json()["reason"]) for asked, answer in answers.items()}
    assert refusals == dict.fromkeys(BAD_RANGES, (422, "bad_range"))


async def test_a_package_comes_as_ciphertext(api: Api) -> None:
    """What anybody may download holds no byte sequence of the model."""
    content = (await api.clients[NOBODY].get(f"/v1/packages/{api.bench.package}")).content
    model = nothing_but_identity()
    assert all(model[at : at + 24] not in content for at in range(0, len(model) - 24, 8))


# --- The rest ------------------------------------------------------------------------------------------------


async def test_a_page_of_the_log_is_bounded(api: Api) -> None:
    """At most a thousand entries from an index that can be one, each parameter once."""
    for query in ("start=-1", "limit=0", "limit=1001", "start=x", "start=1&start=2", "other=1"):
        answer = await api.operator.get(f"/v1/log/entries?{query}")
        assert (answer.status_code, answer.json()["reason"]) in {(400, "bad_query"), (422, "bad_query")}, query


async def test_a_page_of_the_log_is_what_was_asked(api: Api) -> None:
    """From the index on, as many as wanted."""
    page = decode((await api.operator.get("/v1/log/entries?start=2&limit=3")).content, LogPage)
    assert (page.start, len(page.entries)) == (2, 3)


async def test_a_proof_costs_the_ledger_a_handful_of_statements(lent: Bench) -> None:
    """Anybody may ask for one: it is read at once, however many nodes it has; and what is proved is right."""

    def grow(transaction: Transaction) -> None:
        for _ in range(5_000):
            log.append(transaction, lent.now_ms, Wiped(instance=InstanceId("a" * 64), epoch=0))

    await lent.custodian.database.run(grow)
    size = (await lent.custodian.database.run(log.head)).size
    engine, statements = lent.custodian.database.backend.engine, []

    def seen(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", seen)
    for old, new in ((5, size - 1), (33, size), (1_023, 4_095), (17, 19), (4_096, size), (size, size)):
        statements.clear()
        proof = await proofs.consistency(lent.custodian, old, new)
        verify_consistency(old, proof.old_root, new, proof.root, proof.path)
        assert len(statements) <= 8, statements
    event.remove(engine, "before_cursor_execute", seen)


async def test_a_forged_checkpoint_is_not_verified_by_the_ledgers_writer(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs whoever verifies it, not those who wait for their renewals; and it is refused as ever."""
    custodian = api.bench.custodian
    ahead = Checkpoint(custodian=custodian.keys.custodian, size=10**6, root=bytes(32))
    note = sign_checkpoint(ahead, custodian.keys.log).replace(str(10**6), str(10**6 + 1))
    threads: list[str] = []
    verify = VerifyKey.verify

    def seen(key: VerifyKey, signature: bytes, data: bytes) -> None:
        threads.append(threading.current_thread().name)
        verify(key, signature, data)

    monkeypatch.setattr(VerifyKey, "verify", seen)
    answer = await api.clients[NOBODY].post("/v1/checkpoints", json={"checkpoint": note})
    assert (answer.status_code, answer.json()["reason"]) == (422, "checkpoint")
    assert threads
    assert "ledger-writer" not in threads


async def test_entries_of_a_rare_kind_are_found_newest_first(api: Api) -> None:
    """Before the given index, as many as wanted, and the same that the log's pages hold."""
    page = decode((await api.operator.get("/v1/log/entries")).content, LogPage).entries
    added = [raw for raw in page if decode(raw, Entry).body.__struct_config__.tag == "party_added"][::-1]
    assert len(added) >= 3
    found = decode((await api.operator.get("/v1/log/found?kind=party_added")).content, LogFound).entries
    assert found == added
    before = decode(added[0], Entry).index
    answer = await api.operator.get(f"/v1/log/found?kind=party_added&before={before}&limit=1")
    assert decode(answer.content, LogFound).entries == added[1:2]


async def test_no_page_of_the_log_is_more_than_an_auditor_reads(lent: Bench) -> None:
    """Attack: an operator orders terms that name hundreds of borrowers, again and again: no copy could be made."""
    command = entry.Command(operator=lent.operator.operator, command_id=message_id(), digest=lent.manifest)
    names, kind = [BorrowerId(f"b{number:062d}") for number in range(900)], log.kind_of(entry.ModelTermsSet)

    def order(transaction: Transaction) -> None:
        for epoch in range(1, 451):
            terms = entry.ModelTermsSet(
                model=MODEL, policy=lent.manifest, borrowers=names, epoch=epoch, command=command
            )
            log.append(transaction, lent.now_ms, terms)

    await lent.custodian.database.run(order)
    first, newest = (
        await views.show_log(lent.custodian, 0, 1000),
        await views.show_kind(lent.custodian, kind, 450, 1000),
    )
    for page in (first, newest):
        assert 100 < len(page.entries) < 450
        assert len(encode(page)) < MAX_ANSWER_BYTES // 2


async def test_pages_that_are_shorter_than_was_asked_for_are_not_the_last(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where entries are long a page has few: an export, and whoever looks for a kind, goes on until there is none."""
    monkeypatch.setattr(views, "_PAGE_BYTES", 1)

    def read() -> tuple[list[bytes], list[bytes]]:
        address = msgspec.structs.replace(api.bench.operator.custodian, url=api.url)
        with OperatorClient(msgspec.structs.replace(api.bench.operator, custodian=address)) as client:
            size = client.verified_head()[1].size
            return list(client.log_entries(end=size)), list(client.log_found("party_added", before=size))

    entries, found = await asyncio.to_thread(read)
    assert [decode(line, Entry).index for line in entries] == list(range(len(entries)))
    assert len(entries) > len(found) > 3
    assert found == [line for line in reversed(entries) if isinstance(decode(line, Entry).body, entry.PartyAdded)]


@pytest.mark.parametrize("kind", ["lease_granted", "lease_closed", "nothing"])
async def test_a_kind_that_is_not_looked_up_is_refused(api: Api, kind: str) -> None:
    """An empty answer would say that there is no such entry."""
    answer = await api.operator.get(f"/v1/log/found?kind={kind}")
    assert (answer.status_code, answer.json()["reason"]) == (422, "log_kind")


async def test_a_boot_over_http_is_the_same_boot(api: Api) -> None:
    """The routes lead to the use cases: challenge, admission and key, by signatures alone."""
    enclave, client = Enclave(api.bench), api.clients[NOBODY]
    challenge = await enclave.challenge()
    booted = await client.post(
        "/v1/boot", content=encode(enclave.sealed(enclave.request(enclave.claims(challenge)))), headers=JSON
    )
    assert booted.status_code == 200
    released = await client.post("/v1/release", content=encode(enclave.release_request()), headers=JSON)
    assert released.status_code == 200
    assert (await api.bench.kinds())[-2:] == ["Attested", "KeyReleased"]


async def test_the_stream_begins_with_the_stop_state_and_ends_when_it_is_cut(api: Api) -> None:
    """A stop between two streams cannot be missed; a newer stream ends the older one, a copy of a request none."""
    enclave = Enclave(api.bench)
    await enclave.boot()

    def opening(at_ms: int) -> Any:
        message = Listen(instance=enclave.instance, nonce=message_id(), at_ms=at_ms)
        content = encode(seal(messages.LISTEN, message, enclave.identity))
        return api.clients[NOBODY].stream("POST", "/v1/listen", content=content, headers=JSON)

    async with opening(1) as first:
        lines = first.aiter_lines()
        line = decode((await anext(lines)).encode(), Push)
        assert line.stop_state is not None
        assert not enclave.stop_state(line.stop_state).is_wide()
        await api.bench.command(acts.Stop(target=StopTarget.ALL, value="", reason="drill"))
        line = decode((await anext(lines)).encode(), Push)
        assert line.stop_state is not None
        assert enclave.stop_state(line.stop_state).is_wide()
        async with opening(2) as second:
            newer = second.aiter_lines()
            line = decode((await anext(newer)).encode(), Push)
            assert line.stop_state is not None
            assert enclave.stop_state(line.stop_state).is_wide()
            assert [rest async for rest in lines] == []
            for late in (1, 2):
                async with opening(late) as copy:
                    assert copy.status_code == 409
                    assert json.loads(await copy.aread())["reason"] == "listen_superseded"
            assert api.bench.custodian.hub.connected() == {enclave.instance}
            api.bench.custodian.hub.cut(enclave.instance)


async def test_the_consumers_identity_is_the_one_of_its_connection(api: Api) -> None:
    """What a caller sees is its own, whoever it says it is."""
    own = (await api.clients[CONSUMERS].get("/v1/self")).json()
    assert (own["role"], own["name"]) == ("consumer", "ann")
    assert CONSUMER not in str(own)
