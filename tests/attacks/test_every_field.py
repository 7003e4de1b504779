"""Attacks 24 to 29 at every field: what does not belong there is refused at running processes, and nothing moves.

Which fields there are is taken from the types that custodian and enclave describe, so that a new one is tried without
anybody thinking of it, or is told to have no sample. That numbers have one spelling is tried beside this
(test_numbers_that_parsers_read_differently.py); what is read is compared with an independent reading in memory (the
campaign http-bodies).
"""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from assurance.endurance.bodies import rows
from assurance.parsers.documents import drawn
from assurance.parsers.route_tables import tables
from tests.attacks import fields
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.laborious import echo_model
from tests.attacks.refusals import refusal_of
from tests.attacks.test_numbers_that_parsers_read_differently import acts, consumer, ordered
from tests.e2e.world import Connection
from tests.observations import Observed

from aigovtool.codec import encode
from aigovtool.protocol import commands, oip_wire
from aigovtool.transport.routes import Route

#: So many documents of a type are drawn for samples: all members are in some of them.
_DRAWN = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment with a budget; its model gives back what it is sent."""
    with deployed(tmp_path_factory.mktemp("fields"), budget=1_000, model=echo_model(), ttl_ms=30_000) as world:
        yield world


def state(world: Deployment) -> list[Any]:
    """Return what nobody's malformed document may change."""
    views = ("/v1/budgets", "/v1/parties", "/v1/asks", "/v1/models", "/v1/appraisal-policy", "/v1/witnesses")
    return [world.view(path) for path in views]


def places_of(kind: Any, documents: list[Any]) -> Iterator[tuple[Any, fields.Path, set[str]]]:
    """Yield each field that a type has, once for each act if there are acts, in a valid document of that type.

    Raises:
        AssertionError: a field is in none of these documents.
    """
    schema, components = fields.schema_of(kind)
    seen: set[tuple[str | int, ...]] = set()
    for document in documents:
        for place, types in fields.members(document, schema, components):
            key = (document.get("act", {}).get("act", ""), *place) if "act" in document else place
            if key not in seen:
                seen.add(key)
                yield document, place, types
    told = {str(step) for place in seen for step in place}
    assert fields.names(schema, components) - told == set(), "fields that no sample has"


def samples(kind: Any, number: int = _DRAWN) -> list[Any]:
    """Return valid documents of a type."""
    return [json.loads(encode(one)) for one in drawn(kind, number)]


def refused(problem: dict[str, Any], place: fields.Path, token: str) -> None:
    """Demand that a refusal is about what was sent, and, where it is about a value, about this field."""
    assert problem["code"] in {"malformed", "invalid_value", "too_large"}, (place, token[:40], problem)
    named = [step for step in place if isinstance(step, str)][-1]
    if problem["code"] == "invalid_value":
        assert named in problem["detail"] or "$" not in problem["detail"], (place, token[:40], problem)


@pytest.mark.attack(24)
def test_every_field_of_every_described_body(world: Deployment, observed: Observed) -> None:
    """All routes of both servers with a described body, each field of it: what may not stand there is refused."""
    before, tried, places = state(world), 0, 0
    links = {"custodian": [world.to_custodian(), consumer(world)], "enclave": [world.connect()]}
    for server, table in tables().items():
        for route in table.routes:
            if route.body is None:
                continue
            path = route.path.format(ask_id=secrets.token_hex(16), model="digits", version="1")
            for document, place, types in places_of(route.body, samples(route.body)):
                places += 1
                for token in (*fields.misplaced(types), *fields.NEVER):
                    body = fields.with_token(document, place, token)
                    answers = [link.request(route.method, path, body) for link in links[server]]
                    told = [refusal_of(one, 400, 403, 413, 422) for one in answers]
                    problems = [one for one in told if one["code"] != "forbidden"]
                    assert problems, (path, told)
                    for problem in problems:
                        refused(problem, place, token)
                        observed.refusal(problem)
                    tried += 1
    assert places > 15
    observed.figure("fields of described bodies", places)
    observed.figure("bodies with what does not belong there", tried)
    assert state(world) == before


#: Terms that chance does not draw: each member is in one of them, or in the terms of `acts`.
HIDING = {"outputs": [{"name": "y", "hide": True}]}
KEEPING = {"outputs": [{"name": "y", "top_k": 1, "fill": "lowest"}], "only_named": True}


@pytest.mark.attack(24)
def test_every_field_of_every_signed_order(world: Deployment, observed: Observed) -> None:
    """All acts, under an operator's own signature."""
    before, link, places, tried = state(world), world.to_custodian(), 0, 0
    orders = samples(commands.Command, 200)
    mine = acts(world)
    (terms,) = [act for act in mine if act["act"] == "set_model_terms"]
    for more in ({"answers": HIDING}, {"answers": KEEPING}, {"inputs": {"finite": True, "batch": True}}):
        mine.append({**terms, "policy": {**terms["policy"], **more}})
    orders = [*({**orders[0], "act": act} for act in mine), *orders]
    for document, place, types in places_of(commands.Command, orders):
        never = fields.NEVER if place in {("act", "act"), ("issued_at_ms",)} else ()
        places += 1
        for token in (*fields.misplaced(types), *never):
            problem = refusal_of(ordered(world, link, fields.with_token(document, place, token)), 400, 413, 422)
            refused(problem, place, token)
            tried += 1
    assert places > 80
    observed.figure("fields of signed orders", places)
    observed.figure("signed orders with what does not belong there", tried)
    assert state(world) == before


# --- Open Inference Protocol ---------------------------------------------------------------------------------


def protocol() -> tuple[fields.Schema, fields.Schema]:
    """Return the schema of a request, with what its parameters may say."""
    schema, components = fields.schema_of(oip_wire.WireRequest)
    for owner, kind in (
        ("WireRequest", oip_wire.RequestParameters),
        ("WireTensor", oip_wire.TensorParameters),
        ("WireOutput", oip_wire.OutputParameters),
    ):
        inner, more = fields.schema_of(kind)
        components |= more
        components[owner]["properties"]["parameters"] = {"anyOf": [inner, {"type": "null"}]}
    components["WireTensor"]["properties"]["data"] = {
        "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]
    }
    return schema, components


TENSOR = {"name": "x", "shape": [1], "datatype": "FP32"}
OUTPUT = {"name": "y", "parameters": {"binary_data": False}}
WISHES = {"binary_data_output": False, "priority": 1, "timeout": 1_000}
PLAIN = {"id": "1", "inputs": [{**TENSOR, "data": [1.0]}], "outputs": [OUTPUT], "parameters": WISHES}
BINARY = {"id": "1", "inputs": [{**TENSOR, "parameters": {"binary_data_size": 4}}], "outputs": [OUTPUT]}


@pytest.mark.attack(24, 28, 29)
def test_every_field_of_an_inference(world: Deployment, observed: Observed) -> None:
    """In JSON and in the binary form: of each field what may stand there is answered or refused, all else refused."""
    schema, components = protocol()
    link, engine = world.connect(), world.engine_pid()
    inferences = tried = 0
    seen: set[str] = set()
    for document in (PLAIN, BINARY):
        for place, types in fields.members(document, schema, components):
            seen |= {str(step) for step in place}
            wrong = {*fields.misplaced(types), *fields.NEVER}
            for token in (*wrong, *(token for _, token in fields.TOKENS if token not in wrong)):
                body = fields.with_token(document, place, token)
                headers = {}
                if document is BINARY:
                    headers = {"inference_header_content_length": str(len(body))}
                    headers["content_type"] = "application/octet-stream"
                    body += bytes(4)
                answer = link.infer(body, **headers)
                tried += 1
                if answer.status == 200:
                    assert token not in wrong, (place, token[:40])
                    inferences += max(1, rows(answer))
                else:
                    observed.refusal(refusal_of(answer, 400, 404, 413, 422))
    assert fields.names(schema, components) - seen == set(), "fields that no sample has"
    assert world.engine_pid() == engine
    observed.figure("inferences with one field changed", tried)
    world.kill("enclave", 15)
    world.processes["enclave"].wait(30)
    assert world.posted() == inferences > 0
    world.start_enclave()


# --- Paths and queries --------------------------------------------------------------------------------------

TEXTS = (
    *("", "..", "../..", "\0", "\xff", "x" * 5_000, "１２", "\u202e"),
    *("a/b", "a b", "%2e%2e", "sha256:", "*", "'", "\r\nX: 1"),
)


@pytest.mark.attack(24)
def test_every_text_in_a_path_or_a_query(world: Deployment, observed: Observed) -> None:
    """Each placeholder of a path and each query of both servers: what does not exist is refused, with a type."""
    before, tried = state(world), 0
    openings: dict[str, Callable[[], Connection]] = {
        "operator": world.to_custodian,
        "consumer": lambda: consumer(world),
        "enclave": world.connect,
    }
    links = {name: opened() for name, opened in openings.items()}
    for server, table in tables().items():
        for route in table.routes:
            for path in bent(route):
                for name in ("enclave",) if server == "enclave" else ("operator", "consumer"):
                    answer = links[name].request(route.method, path, b"{}" if route.body else None)
                    if answer.status != 200:
                        refusal_of(answer, 400, 403, 404, 405, 411, 413, 415, 422)
                    tried += answer.status != 403
                    if answer.headers.get("connection") == "close":  # its head was refused
                        links[name].close()
                        links[name] = openings[name]()
    assert tried > 200
    observed.figure("paths and queries", tried)
    assert state(world) == before


def bent(route: Route) -> Iterator[str]:
    """Yield requests' targets of a route, each with one text where it does not belong."""
    holes = [part for part in route.path.split("/") if part.startswith("{")]
    good = {
        hole: "1" if hole == "{version}" else "digits" if hole == "{model}" else secrets.token_hex(16) for hole in holes
    }
    for text in TEXTS:
        for hole in holes:
            words = {**good, hole: quote(text, safe="", encoding="latin-1" if text == "\xff" else "utf-8")}
            yield "/".join(words.get(part, part) for part in route.path.split("/"))
        if route.query_type is not None:
            path = "/".join(good.get(part, part) for part in route.path.split("/"))
            for name in fields.names(*fields.schema_of(route.query_type)):
                yield f"{path}?{name}={quote(text, safe='')}"
