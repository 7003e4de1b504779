"""OpenAPI 3.1 from the route table, so that the description cannot drift from what is served.

Schemas come from the message types themselves. Every operation says who may call it twice: for tools, as the
security requirement `clientCertificate` (mutual TLS), and in our own words, as `x-aigovtool-who`.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from aigovtool.codec import Message
from aigovtool.transport.problem import MEDIA_TYPE, Problem
from aigovtool.transport.routes import Caller, Route, path_names

_REFERENCE: Final = "#/components/schemas/{name}"
_SCHEME: Final = "clientCertificate"
_JSON: Final = "application/json"

# An OpenAPI document is JSON by nature; it is built here and only encoded elsewhere.
Json = dict[str, Any]


def openapi(routes: Sequence[Route], title: str, version: str) -> Json:
    """Return the OpenAPI 3.1 document of `routes`, ready for a JSON encoder."""
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for route in sorted(routes, key=lambda route: (route.path, route.method)):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {"problem": _problem(by_type[Problem])},
            "securitySchemes": {
                _SCHEME: {
                    "type": "mutualTLS",
                    "description": "A client certificate whose only name is urn:aigovtool:ROLE:NAME, or "
                    "urn:aigovtool:consumer:BORROWER:NAME",
                }
            },
        },
    }


def _types(routes: Sequence[Route]) -> list[type[msgspec.Struct]]:
    found: dict[type[msgspec.Struct], None] = {Problem: None}
    for route in routes:
        for kind in (route.body, route.answer, route.path_type, route.query_type):
            if kind is not None:
                found[kind] = None
    return list(found)


def _operation(route: Route, schemas: dict[type[msgspec.Struct], Json], components: Json) -> Json:
    operation: Json = {
        "operationId": route.name or _operation_id(route),
        "summary": route.summary,
        "x-aigovtool-who": [caller.value for caller in route.who],
        "security": [] if Caller.ANYONE in route.who else [{_SCHEME: []}],
        "responses": {**_answers(route, schemas), "default": {"$ref": "#/components/responses/problem"}},
    }
    for status in _errors(route):
        operation["responses"][str(status)] = {"$ref": "#/components/responses/problem"}
    parameters = _parameters(route.path_type, "path", components) + _parameters(route.query_type, "query", components)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": schemas[route.body]}}}
    elif route.stream_body:
        operation["requestBody"] = {"required": True, "content": {"*/*": {}}}
    return operation


def _answers(route: Route, schemas: dict[type[msgspec.Struct], Json]) -> Json:
    answers: Json = {}
    if route.answer is not None:
        content = {_JSON: {"schema": schemas[route.answer]}}
        answers[str(route.status)] = {"description": "The answer", "content": content}
    if route.answer_media is not None:
        answer = answers.setdefault(str(route.status), {"description": "The answer", "content": {}})
        answer["content"][route.answer_media] = {}
    return answers or {"204": {"description": "Done; there is nothing to say"}}


def _errors(route: Route) -> list[int]:
    statuses = [400, 429, 500]
    if Caller.ANYONE not in route.who:
        statuses += [401, 403]
    if path_names(route.path):
        statuses += [404]
    if route.body is not None or route.stream_body:
        statuses += [413, 415]
    if route.body is not None or route.path_type is not None or route.query_type is not None:
        statuses += [422]
    return sorted(statuses)


def _parameters(kind: type[Message] | None, where: str, components: Json) -> list[Json]:
    if kind is None:
        return []
    schema = components[kind.__name__]
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": where,
            "required": where == "path" or name in required,
            "schema": schema["properties"][name],
        }
        for name in schema["properties"]
    ]


def _problem(schema: Json) -> Json:
    return {"description": "Why it was refused (RFC 9457)", "content": {MEDIA_TYPE: {"schema": schema}}}


def _operation_id(route: Route) -> str:
    parts = [part.strip("{}").replace("-", "_").replace(".", "_") for part in route.path.split("/") if part]
    return "_".join([route.method.lower(), *parts])
