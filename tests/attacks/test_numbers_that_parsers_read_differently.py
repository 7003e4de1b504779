"""Attack 24: numbers that Python, JSON and databases read in several ways, in every numeric field that is read."""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.refusals import refusal_of
from tests.e2e.world import BORROWER, MODEL, Answer, Connection
from tests.observations import Observed

from aigovtool.codec import encode
from aigovtool.crypto.sign import Envelope, Signature, SigningKey, payload_type, pre_authentication_encoding
from aigovtool.ids import MessageId
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands

pytestmark = pytest.mark.attack(24)

#: What stands where a number is expected: no JSON, another type, another spelling, or out of every domain.
NOT_JSON = ("NaN", "Infinity", "-Infinity", "１２", "1_0", "+5", "05", "0x10", "1.", "", "[" * 100_000, "9" * 100_000)
TOO_MUCH = ("1e400", str(2**63), str(2**64), str(2**53 + 1), "9" * 15_000, "-" + "9" * 40)
OTHER = ("true", "false", '"12"', '"１２"', "1.0", "1e3", "1.5", "-1.0", "[1]", '{"units":1}', '"' + "1" * 50_000 + '"')
#: In a query everything is text: these are other spellings, and numbers out of every domain.
QUERIES = ("1e3", "1.0", "1_0", "１２", "+5", "05", " 5", "5 ", "0x10", "-1", "NaN", "true", "", "1e400", str(2**63))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment with a budget, of which these tests must not take anything."""
    with deployed(tmp_path_factory.mktemp("numbers"), budget=1_000) as world:
        yield world


def rows(world: Deployment) -> list[Any]:
    """Return the budget as the ledger has it."""
    found: list[Any] = world.view("/v1/budgets")["budgets"]
    return found


def with_token(document: Any, path: tuple[str | int, ...], token: str) -> bytes:
    """Return `document` with something else at `path`, as bytes."""
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "@@"
    return json.dumps(copy, ensure_ascii=False, separators=(",", ":")).replace('"@@"', token).encode()


def twice(document: Any, path: tuple[str | int, ...]) -> bytes:
    """Return `document` with the number at `path` said twice, if it is a member of an object."""
    key, value = path[-1], json.dumps(_at(document, path))
    return with_token(document, path, f'{value},"{key}":{value}' if isinstance(key, str) else "NaN")


def _at(document: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def numbers_in(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of all integers."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from numbers_in(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from numbers_in(value, (*path, index))
    elif isinstance(document, int) and not isinstance(document, bool):
        yield path


def bodies(document: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the document with each bad number at one place."""
    for token in (*NOT_JSON, *TOO_MUCH, *OTHER, "-1"):
        yield token[:20], with_token(document, path, token)
    yield "twice", twice(document, path)


# --- The custodian's description ----------------------------------------------------------------------


def consumer(world: Deployment) -> Connection:
    """Return a consumer's connection to the custodian."""
    return world.to_custodian(world.consumer_certificate, world.consumer_key)


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = components[name] if name else schema
    return found


def _is_number(schema: dict[str, Any]) -> bool:
    return any(one.get("type") in {"integer", "number"} for one in (schema, *schema.get("anyOf", [])))


def test_every_number_in_a_query_has_one_spelling(world: Deployment, observed: Observed) -> None:
    """All query parameters of the custodian's own description that are integers; nothing in the ledger moves."""
    before, link = rows(world), world.to_custodian()
    described = link.request("GET", "/openapi.json").json()
    parameters = [
        (path, one["name"], operation["parameters"])
        for path, item in described["paths"].items()
        for operation in item.values()
        for one in operation.get("parameters", [])
        if one["in"] == "query" and _is_number(_resolved(one["schema"], described["components"]["schemas"]))
    ]
    assert len(parameters) >= 8
    for path, name, all_of_it in parameters:
        others = "".join(f"&{one['name']}=1" for one in all_of_it if one["required"] and one["name"] != name)
        texts = (*QUERIES, str(2**53 + 1), "9" * 3_000, f"1&{name}=1")
        for text in texts:
            answer = link.request("GET", f"{path}?{name}={quote(text, safe='&=')}{others}")
            assert observed.refusal(refusal_of(answer, 400, 422)).endswith(": bad_query"), (path, name, text)
    observed.figure("query parameters", len(parameters))
    assert rows(world) == before


def test_every_number_in_a_body_of_the_description_is_read_strictly(world: Deployment, observed: Observed) -> None:
    """A new numeric field of a described body is tried without anybody thinking of it, or has no sample and is told."""
    before = rows(world)
    described = world.to_custodian().request("GET", "/openapi.json").json()
    components = described["components"]["schemas"]
    samples: dict[str, Any] = {
        "AskRequest": {"ask_id": secrets.token_hex(16), "scope": {"model": MODEL}, "units": 5, "reason": "more"},
    }
    tried = 0
    for path, item in described["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            name = content["schema"]["$ref"].rpartition("/")[2]
            sample = samples.get(name, {})
            assert _numeric_members(components[name], components) == {one[-1] for one in numbers_in(sample)}, name
            link = consumer(world) if "consumer" in operation["x-aigovtool-who"] else world.to_custodian()
            for place in numbers_in(sample):
                for token, body in bodies(sample, place):
                    problem = refusal_of(link.request(method.upper(), path, body), 400, 413, 422)
                    assert problem["code"] in {"malformed", "invalid_value", "too_large"}, token
                    assert problem["code"] != "invalid_value" or str(place[-1]) in problem["detail"], (token, problem)
                    observed.refusal(problem)
                    tried += 1
    assert tried > 20
    observed.figure("bodies at described fields", tried)
    assert world.view("/v1/asks")["asks"] == []
    assert rows(world) == before


def _numeric_members(schema: dict[str, Any], components: dict[str, Any]) -> set[str]:
    """Return the names of all integers that a schema allows, at any depth."""
    seen: set[int] = set()
    names: set[str] = set()

    def visit(part: Any, name: str) -> None:
        if not isinstance(part, dict) or id(part) in seen:
            return
        seen.add(id(part))
        part = _resolved(part, components)
        if _is_number(part):
            names.add(name)
        for key, value in part.get("properties", {}).items():
            visit(value, key)
        for value in (part.get("items"), part.get("additionalProperties"), *part.get("anyOf", [])):
            visit(value, name)
        for value in part.get("prefixItems", []):
            visit(value, name)

    visit(schema, "")
    return names


# --- Signed orders --------------------------------------------------------------------------------------


def acts(world: Deployment) -> list[Any]:
    """Return one act of each kind that has numbers, with all of its numbers said."""
    scope = Scope(model=MODEL)
    measures = ("inferences", "input_tokens", "output_tokens", "cached_tokens", "compute_ms")
    policy = json.loads(encode(default_policy(Dial.BALANCED, ttl_ms=3_000))) | {
        "request_max": dict.fromkeys(measures, 0),
        "max_run_ms": 100,
        "answers": {"outputs": [{"name": "y", "decimals": 2, "top_k": 1}], "pad_bytes": 1024},
    }
    key = SigningKey.generate().public.raw
    plain = [
        commands.AddParty(role=PartyRole.CONSUMER, name="x", key=key, borrower=BORROWER, valid_for_ms=60_000),
        commands.GrantBudget(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=7),
        commands.SetBudget(
            limit=BudgetLimit(
                scope=scope,
                dimension=Dimension.INFERENCES,
                window=Window.LIFETIME,
                limit=7,
                not_after_ms=time.time_ns() // 1_000_000 + 10**9,
            )
        ),
        commands.Resume(target=StopTarget.ALL, value="", reason="r", epoch=7),
        commands.DecideAsk(ask_id=MessageId(secrets.token_hex(16)), approve=True, units=7, reason="r"),
        commands.SettleGap(
            checkpoint="",
            charges=[
                commands.RowCharge(
                    row=RowKey(scope=scope, dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=1),
                    units=7,
                )
            ],
            reason="r",
        ),
    ]
    appraisal = world.view("/v1/appraisal-policy")
    for tee in appraisal["accepted"]:
        tee["max_collateral_age_ms"] = 86_400_000
    return [
        *(json.loads(encode(one)) for one in plain),
        {"act": "set_model_terms", "model": MODEL, "policy": policy, "borrowers": [BORROWER]},
        {"act": "set_appraisal_policy", "policy": appraisal},
    ]


def ordered(world: Deployment, link: Connection, payload: bytes) -> Answer:
    """Send a payload that the operator has signed, whatever it is."""
    key = world.operator_key
    kind = payload_type(commands.COMMAND)
    signed = key.sign(pre_authentication_encoding(kind, payload))
    envelope = Envelope(payload=payload, payloadType=kind, signatures=[Signature(keyid=key.public.key_id, sig=signed)])
    return link.request("POST", "/v1/commands", encode(envelope))


def test_every_number_of_a_signed_order_is_read_strictly(world: Deployment, observed: Observed) -> None:
    """An operator's own signature under a bad number moves nothing; all acts with numbers, each of their numbers."""
    before, link, tried = rows(world), world.to_custodian(), 0
    parties = world.view("/v1/parties")
    seen: set[str] = set()
    for act in acts(world):
        order = {
            "custodian": world.custodian_id,
            "operator": world.operator.operator,
            "command_id": secrets.token_hex(16),
            "issued_at_ms": time.time_ns() // 1_000_000,
            "act": act,
        }
        for place in numbers_in(order):
            seen.add(str(place[-1]) if isinstance(place[-1], str) else str(place[-2]))
            for token, body in bodies(order, place):
                if len(body) > 20_000 and place[-1] != "units":
                    continue  # long ones are tried at one place of each act
                problem = refusal_of(ordered(world, link, body), 400, 413, 422)
                assert problem["code"] in {"malformed", "invalid_value", "too_large"}, (act["act"], token, problem)
                assert problem["code"] != "invalid_value" or str(place[-1]) in problem["detail"], (token, problem)
                tried += 1
    schema, components = msgspec.json.schema_components([commands.Command])
    missing = _numeric_members(schema[0], components) - seen
    assert missing == set(), "fields that no sample has"
    observed.figure("signed orders", tried)
    assert rows(world) == before
    assert world.view("/v1/parties") == parties


# --- Inference ------------------------------------------------------------------------------------------

IMAGE = [0.0] * 64
TENSOR = {"name": "X", "shape": [1, 64], "datatype": "FP32", "data": IMAGE}


def test_every_number_of_an_inference_is_read_strictly(world: Deployment, observed: Observed) -> None:
    """Shape, sizes of binary data, wishes and lengths; and what is no number among the data. Nothing is charged."""
    link = world.connect()
    binary = {key: value for key, value in TENSOR.items() if key != "data"}
    plain = {"inputs": [TENSOR], "parameters": {"priority": 1, "timeout": 1}}
    sized = {"inputs": [{**binary, "parameters": {"binary_data_size": 256}}]}
    places = [place for place in numbers_in(plain) if "data" not in place]
    assert len(places) == 4
    tried = 0
    for place in places:
        for _, body in bodies(plain, place):
            observed.refusal(refusal_of(link.infer(body), 400, 413, 422))
            tried += 1
    for _, head in bodies(sized, ("inputs", 0, "parameters", "binary_data_size")):
        headers = {"inference_header_content_length": str(len(head)), "content_type": "application/octet-stream"}
        refusal_of(link.infer(head + bytes(256), **headers), 400, 413, 422)
        tried += 1
    for token in (*NOT_JSON, *TOO_MUCH, '"1"', "true", "null", "[1]", "1e39"):
        if token in {str(2**63), str(2**64), str(2**53 + 1)}:
            continue  # integers that a float can be
        problem = refusal_of(
            link.infer(with_token({"inputs": [TENSOR]}, ("inputs", 0, "data", 3), token)), 400, 413, 422
        )
        observed.refusal(problem)
        tried += 1
    good = json.dumps(sized).encode()
    for text in ("1e2", "1.0", "+5", "05", "1_0", "-1", str(2**63), "9" * 200, f"{len(good)} ", str(len(good) + 257)):
        headers = {"inference_header_content_length": text, "content_type": "application/octet-stream"}
        problem = refusal_of(link.infer(good + bytes(256), **headers), 400)
        assert observed.refusal(problem) == "malformed: bad_header_length", text
        tried += 1
    observed.figure("inferences", tried)
    headers = {"inference_header_content_length": str(len(good)), "content_type": "application/octet-stream"}
    assert link.infer(good + bytes(256), **headers).status == 200
    world.end("enclave")
    assert world.posted() == 1
    world.start_enclave()


@pytest.mark.parametrize("text", ["5 ", "+5", "05", "5_0", "5,5", "0x5", "5.0", "5e0", "-5", "1" * 40, ""])
def test_a_length_of_a_body_has_one_spelling(world: Deployment, text: str, observed: Observed) -> None:
    """`Content-Length` at both servers, before anything is believed of the body."""
    for link, path in ((world.connect(), f"/v2/models/{MODEL}/infer"), (consumer(world), "/v1/asks")):
        link.link.putrequest("POST", path)
        link.link.putheader("content-type", "application/json")
        link.link.putheader("content-length", text)
        link.link.endheaders(b"12345")
        response = link.link.getresponse()
        answer = Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
        problem = refusal_of(answer, 400)
        assert problem["reason"] == "bad_content_length"
        observed.refusal(problem)
        link.close()
