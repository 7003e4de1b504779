"""The custodian's HTTP API: a table of routes over the use cases, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Annotated, TypeVar

from msgspec import Meta
from starlette.responses import Response, StreamingResponse
from starlette.routing import Router

from aigovtool import __version__
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import Message, encode
from aigovtool.crypto.sign import Envelope
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.ledger_api import ledger_routes
from aigovtool.custodian.log_api import log_routes
from aigovtool.custodian.service import asks, boot, commands, credentials, key_release, packages, renewal, views
from aigovtool.custodian.service.refusals import noting
from aigovtool.custodian.store import facts
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.turns import enclaves_of, in_line_of, party
from aigovtool.ids import Digest, MessageId, Units
from aigovtool.ledger.entry import PartyRole
from aigovtool.limits import (
    MAX_CONTROL_BODIES_BYTES,
    MAX_CONTROL_BODIES_BYTES_PER_CALLER,
    MAX_EVIDENCE_BYTES,
    MAX_INTEGER,
    MAX_PACKAGE_BYTES,
)
from aigovtool.protocol import views as shown
from aigovtool.protocol.commands import AskRequest, AskState, CommandResult
from aigovtool.protocol.messages import Push, RenewReply
from aigovtool.protocol.release import ChallengeReply
from aigovtool.transport.body import stream_body
from aigovtool.transport.openapi import openapi
from aigovtool.transport.room import Room
from aigovtool.transport.routes import Call, Caller, Route, application
from aigovtool.transport.source import SourceResponse, begun

T = TypeVar("T")
#: Something is sent on a push stream at least this often, so that both ends notice a dead transaction.
KEEPALIVE_S = 5.0
_ANYONE = (Caller.ANYONE,)
_OPERATOR = (Caller.OPERATOR,)
_PARTY = (Caller.CONSUMER, Caller.BORROWER)


class PackagePath(Message):
    """Which package."""

    package: Digest


class AskPath(Message):
    """Which request for budget."""

    ask_id: MessageId


class LogQuery(Message):
    """Which entries of the log."""

    start: Units = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class LogKindQuery(Message):
    """Which entries of the log: the newest of one kind, from before an index."""

    kind: Annotated[str, Meta(max_length=40)]
    before: Units = MAX_INTEGER
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class PartyQuery(Message):
    """Which party."""

    role: PartyRole
    name: Annotated[str, Meta(max_length=100)]


def custodian_application(custodian: Custodian, *, clock_ms: Callable[[], int]) -> Router:
    """Return what is served: the table, and a line in the audit log for whom it refuses."""
    bodies = Room(MAX_CONTROL_BODIES_BYTES_PER_CALLER, MAX_CONTROL_BODIES_BYTES, "open_bodies")
    return application(routes(custodian), clock_ms=clock_ms, refused=noting(custodian), bodies=bodies)


def routes(custodian: Custodian) -> list[Route]:
    """Return the table."""
    table = [
        *_public(custodian),
        *log_routes(custodian),
        *ledger_routes(custodian),
        *_enclave(custodian),
        *_party(custodian),
        *_operator(custodian),
        *_entries(custodian),
        *_views(custodian),
    ]
    description = encode(openapi(table, title="AIGovTool custodian", version=__version__))

    async def describe(_call: Call) -> Response:
        return Response(description, media_type="application/json")

    return [
        *map(_in_line, table),
        Route(
            method="GET",
            path="/openapi.json",
            handler=describe,
            who=_ANYONE,
            summary="This API in OpenAPI 3.1",
            answer_media="application/json",
        ),
    ]


def _in_line(route: Route) -> Route:
    """Have whoever shows a credential wait for the ledger in a line of its own."""
    if Caller.ANYONE in route.who:
        return route

    async def handler(call: Call) -> object:
        identity = call.caller()
        with in_line_of(party(identity.kind.value, identity.name)):
            return await route.handler(call)

    return replace(route, handler=handler)


def _public(custodian: Custodian) -> list[Route]:
    async def health(_call: Call) -> shown.Health:
        generation, epoch = await custodian.database.run_open(
            lambda transaction: (facts.generation(transaction), facts.epoch(transaction))
        )
        return shown.Health(
            status="clock_leapt" if custodian.clock.leapt_ms else "serving",
            version=__version__,
            custodian=custodian.keys.custodian,
            generation=generation,
            epoch=epoch,
        )

    async def key_set(_call: Call) -> Envelope:
        return custodian.keys.key_set_envelope

    async def package(call: Call) -> Response:
        asked = call.request.headers.get("range")
        found = await begun(packages.open_range(custodian, call.path(PackagePath).package, asked))
        headers = {"content-length": str(found.count), "accept-ranges": "bytes"}
        if asked is not None:
            headers["content-range"] = f"bytes {found.start}-{found.start + found.count - 1}/{found.total}"
        return SourceResponse(found, status_code=206 if asked else 200, headers=headers)

    return [
        Route(method="GET", path="/v1/health", handler=health, who=_ANYONE, summary="Health", answer=shown.Health),
        Route(method="GET", path="/v1/key-set", handler=key_set, who=_ANYONE, summary="Signed keys", answer=Envelope),
        Route(
            method="GET",
            path="/v1/packages/{package}",
            handler=package,
            who=_ANYONE,
            summary="A sealed package (ciphertext), whole or one range",
            path_type=PackagePath,
            answer_media="application/octet-stream",
        ),
    ]


def _enclave(custodian: Custodian) -> list[Route]:
    async def challenge(call: Call) -> ChallengeReply:
        return _proven(call, await boot.challenge(custodian, call.body(Envelope)))

    async def listen(call: Call) -> Response:
        instance, asked_ms = _proven(call, await renewal.listener(custodian, call.body(Envelope)))
        return StreamingResponse(_lines(custodian, instance, asked_ms), media_type="application/x-ndjson")

    def signed(
        path: str, use: Callable[[Custodian, Envelope], Awaitable[object]], answer: type[Message], summary: str
    ) -> Route:
        async def handler(call: Call) -> object:
            return _proven(call, await use(custodian, call.body(Envelope)))

        return Route(
            method="POST", path=path, handler=handler, who=_ANYONE, summary=summary, body=Envelope, answer=answer
        )

    return [
        Route(
            method="POST",
            path="/v1/boot/challenge",
            handler=challenge,
            who=_ANYONE,
            summary="A nonce for the evidence of a booting enclave",
            body=Envelope,
            answer=ChallengeReply,
            max_body_bytes=MAX_EVIDENCE_BYTES,
        ),
        signed("/v1/boot", boot.admit, Envelope, "Attest and be admitted"),
        signed("/v1/boot/again", boot.admit_again, Envelope, "Attest again before the attestation runs out"),
        signed(
            "/v1/release", key_release.release_key, Envelope, "The key of one model, wrapped to an attested enclave"
        ),
        signed("/v1/renew", renewal.renew, RenewReply, "Heartbeat: reports and leases"),
        signed("/v1/wiped", renewal.wiped, Envelope, "Acknowledge a wipe, with final reports"),
        Route(
            method="POST",
            path="/v1/listen",
            handler=listen,
            who=_ANYONE,
            summary="A stream of stops, grants and recalls",
            body=Envelope,
            answer_media="application/x-ndjson",
        ),
    ]


def _proven(call: Call, result: T) -> T:
    """Return what came of a body whose signatures were verified: the connection is no stranger's any more."""
    call.connection.prove(call.body(Envelope).signatures[0].keyid)
    return result


async def _lines(custodian: Custodian, instance: Instance, asked_ms: int = 0) -> AsyncIterator[bytes]:
    with custodian.hub.listen(instance, asked_ms) as stream:
        # Read after the stream is registered: a stop falls into the state, into the stream, or into both.
        with in_line_of(enclaves_of(instance.borrower)):
            state = await renewal.stop_state_of(custodian, instance.instance)
        yield encode(Push(stop_state=state, key_set=custodian.keys.key_set.version)) + b"\n"
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE_S):
                    line = await stream.get()
            except TimeoutError:
                line = Push(key_set=custodian.keys.key_set.version)
            if line is None:
                return
            yield encode(line) + b"\n"


def _party(custodian: Custodian) -> list[Route]:
    async def file(call: Call) -> AskState:
        return await asks.file_by_party(custodian, call.caller(), call.body(AskRequest))

    async def show(call: Call) -> AskState:
        return await asks.show(custodian, call.caller(), call.path(AskPath).ask_id)

    async def own(call: Call) -> shown.OwnView:
        return await asks.own_view(custodian, call.caller())

    async def certificate(call: Call) -> shown.PartyCertificate:
        await _enrolled(custodian, call)
        identity = call.caller()
        return await credentials.show_certificate(custodian, PartyRole(identity.kind.value), identity.name)

    return [
        Route(
            method="POST",
            path="/v1/asks",
            handler=file,
            who=_PARTY,
            summary="Ask for more budget",
            body=AskRequest,
            answer=AskState,
        ),
        Route(
            method="GET",
            path="/v1/asks/{ask_id}",
            handler=show,
            who=_PARTY,
            summary="One of the caller's own requests",
            path_type=AskPath,
            answer=AskState,
        ),
        Route(
            method="GET",
            path="/v1/self/certificate",
            handler=certificate,
            who=(*_OPERATOR, *_PARTY),
            summary="The caller's certificate, issued again",
            answer=shown.PartyCertificate,
        ),
        Route(
            method="GET", path="/v1/self", handler=own, who=_PARTY, summary="The caller's budgets", answer=shown.OwnView
        ),
    ]


def _operator(custodian: Custodian) -> list[Route]:
    async def command(call: Call) -> CommandResult:
        return await commands.execute(custodian, call.caller(), call.body(Envelope))

    async def upload(call: Call) -> shown.PackageStored:
        await _enrolled(custodian, call)
        chunks = stream_body(call.request, MAX_PACKAGE_BYTES)
        return await packages.store(custodian, call.path(PackagePath).package, chunks)

    async def certificate(call: Call) -> shown.PartyCertificate:
        await _enrolled(custodian, call)
        query = call.query(PartyQuery)
        return await credentials.show_certificate(custodian, query.role, query.name)

    return [
        Route(
            method="GET",
            path="/v1/certificate",
            handler=certificate,
            who=_OPERATOR,
            summary="A party's certificate, issued again",
            query_type=PartyQuery,
            answer=shown.PartyCertificate,
        ),
        Route(
            method="POST",
            path="/v1/commands",
            handler=command,
            who=_OPERATOR,
            summary="Carry out a signed command",
            body=Envelope,
            answer=CommandResult,
        ),
        Route(
            method="PUT",
            path="/v1/packages/{package}",
            handler=upload,
            who=_OPERATOR,
            summary="Upload a sealed package",
            path_type=PackagePath,
            stream_body=True,
            answer=shown.PackageStored,
            max_body_bytes=MAX_PACKAGE_BYTES,
        ),
    ]


def _entries(custodian: Custodian) -> list[Route]:
    async def log_page(call: Call) -> shown.LogPage:
        query = call.query(LogQuery)
        return await views.show_log(custodian, query.start, query.limit)

    async def log_entries(call: Call) -> shown.LogPage:
        await _enrolled(custodian, call)
        return await log_page(call)

    async def log_found(call: Call) -> shown.LogFound:
        await _enrolled(custodian, call)
        query = call.query(LogKindQuery)
        return await views.show_kind(custodian, query.kind, query.before, query.limit)

    return [
        Route(
            method="GET",
            path="/v1/log/entries",
            handler=log_entries,
            who=_OPERATOR,
            summary="Entries of the audit log",
            query_type=LogQuery,
            answer=shown.LogPage,
        ),
        Route(
            method="GET",
            path="/v1/log/found",
            handler=log_found,
            who=_OPERATOR,
            summary="Newest entries of one kind",
            query_type=LogKindQuery,
            answer=shown.LogFound,
        ),
    ]


def _views(custodian: Custodian) -> list[Route]:
    def view(path: str, show: Callable[[Custodian], Awaitable[object]], answer: type[Message], summary: str) -> Route:
        async def handler(call: Call) -> object:
            await _enrolled(custodian, call)
            return await show(custodian)

        return Route(method="GET", path=path, handler=handler, who=_OPERATOR, summary=summary, answer=answer)

    return [
        view("/v1/parties", views.show_parties, shown.Parties, "Parties"),
        view("/v1/models", views.show_models, shown.Models, "Models"),
        view("/v1/budgets", views.show_budgets, shown.Budgets, "Budget rows"),
        view("/v1/usage", views.show_usage, shown.Usage, "Usage"),
        view("/v1/enclaves", views.show_enclaves, shown.Enclaves, "Enclaves"),
        view("/v1/stops", views.show_stops, shown.Stops, "Stops in force"),
        view("/v1/asks", views.show_asks, shown.Asks, "Requests for more budget"),
        view("/v1/appraisal-policy", views.show_policy, AppraisalPolicy, "Appraisal policy in force"),
        view("/v1/gap", views.show_gap, shown.GapView, "What a restored ledger has forgotten"),
        view("/v1/log/head", views.show_head, shown.LogHead, "Signed checkpoint"),
    ]


async def _enrolled(custodian: Custodian, call: Call) -> None:
    """Refuse a credential whose holder was revoked: certificates outlive revocations."""
    identity = call.caller()
    await custodian.database.run(lambda transaction: asks.party_of(transaction, identity))
