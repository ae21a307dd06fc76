"""``/docs``: the OpenAPI document as a page for people, made here and in need of nothing from elsewhere.

It is public, as the document is: neither says anything of a tenant.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from actors.runtime.job_type import job_types
from web.answers import COMPONENTS
from web.auth import identify
from web.openapi import document
from web.pages import render
from web.problems import Problem

_METHODS: Final = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Piece:
    """A part of a type's name; with a target it is a link to that schema."""

    text: str
    target: str | None = None


@dataclass(frozen=True)
class Member:
    """A parameter, header or property."""

    name: str
    type: list[Piece]
    required: bool = False
    place: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """One status that an operation may answer."""

    status: str
    description: str
    type: list[Piece]
    headers: list[str]


@dataclass(frozen=True)
class Operation:
    """One method of one address."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: list[Member]
    body: list[Piece]
    answers: list[Answer]
    curls: list[str]


@dataclass(frozen=True)
class Schema:
    """One component: its members, or what it is instead of an object."""

    name: str
    description: str
    type: list[Piece]
    members: list[Member]


async def get_docs(request: Request) -> Response:
    """``GET /docs``."""
    try:
        viewer = await identify(request)
    except Problem:
        viewer = None  # a wrong key hides nothing that is public
    described = _described(str(request.base_url).rstrip("/"), tuple(job_types()))
    return render(request, "docs.html", {"viewer": viewer, **described})


@lru_cache(maxsize=8)  # the page is public, and a client chooses the name by which it asks
def _described(server: str, names: tuple[str, ...]) -> dict[str, Any]:
    """What the page shows besides its reader; made anew when there are other job types."""
    kinds = job_types()
    described = document([kinds[name] for name in names], server)
    schemas = sorted(described["components"]["schemas"].items())
    return {
        "info": described["info"],
        "groups": list(groups(described)),
        "schemas": [schema_of(name, schema) for name, schema in schemas],
    }


def groups(described: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Operation]]]:
    """Name, description and operations of each tag; what has none comes last."""
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in described.get("tags", [])}
    texts = {tag["name"]: tag.get("description", "") for tag in described.get("tags", [])}
    server = described["servers"][0]["url"]
    for path, item in described["paths"].items():
        for method in _METHODS:
            if method in item:
                shared = item.get("parameters", [])
                tag = next(iter(item[method].get("tags", [])), "More")
                found.setdefault(tag, []).append(_operation(server, path, method, item[method], shared))
    for name, operations in found.items():
        if operations:
            yield name, texts.get(name, ""), operations


def _operation(server: str, path: str, method: str, given: Mapping[str, Any], shared: list[Any]) -> Operation:
    parameters = [*shared, *given.get("parameters", [])]
    content = given.get("requestBody", {}).get("content", {})
    return Operation(
        id=given.get("operationId", f"{method}{path}"),
        method=method.upper(),
        path=path,
        summary=given.get("summary", ""),
        description=given.get("description", ""),
        parameters=[
            Member(
                parameter["name"],
                type_of(parameter.get("schema", {})),
                parameter.get("required", False),
                parameter["in"],
                [*_text(parameter), *_limits(parameter.get("schema", {}))],
            )
            for parameter in parameters
        ],
        body=[piece for media in content.values() for piece in type_of(media.get("schema", {}))],
        answers=[
            Answer(
                status,
                answer.get("description", ""),
                [piece for media in answer.get("content", {}).values() for piece in type_of(media.get("schema", {}))],
                list(answer.get("headers", {})),
            )
            for status, answer in sorted(given["responses"].items())
        ],
        curls=_curls(server, path, method, given),
    )


def _curls(server: str, path: str, method: str, given: Mapping[str, Any]) -> list[str]:
    """Lines that a shell takes, one per example of the body; names in capitals are the reader's to fill in."""
    path = re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), path)
    start = "curl" + (" -N" if "text/event-stream" in str(given["responses"]) else "")
    start += "" if method == "get" else f" -X {method.upper()}"
    lines = [f"{start} {shlex.quote(server + path)}"]
    if given.get("security") != []:
        lines.append("-H 'Authorization: Bearer YOUR_API_KEY'")
    bodies = [
        (media_type, example["value"])
        for media_type, media in given.get("requestBody", {}).get("content", {}).items()
        for example in media.get("examples", {}).values()
    ]
    if not bodies:
        return [_lines(lines)]
    return [
        _lines([*lines, f"-H {shlex.quote('Content-Type: ' + media_type)}", f"-d {shlex.quote(_written(value))}"])
        for media_type, value in bodies
    ]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lines(parts: list[str]) -> str:
    return " \\\n  ".join(parts)


def schema_of(name: str, schema: Mapping[str, Any]) -> Schema:
    """One component."""
    required = schema.get("required", [])
    members = [
        Member(key, type_of(declared), key in required, notes=[*_text(declared), *_limits(declared)])
        for key, declared in schema.get("properties", {}).items()
    ]
    return Schema(name, schema.get("description", "").replace("``", ""), [] if members else type_of(schema), members)


def type_of(schema: Mapping[str, Any]) -> list[Piece]:
    """A schema in a few words: ``integer or null``, ``list of Job``."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(COMPONENTS)
        return [Piece(name, name)]
    for name in ("oneOf", "anyOf"):
        if name in schema:
            return _joined([type_of(each) for each in schema[name]], " or ")
    if "const" in schema:
        return [Piece(json.dumps(schema["const"]))]
    if "enum" in schema:
        return [Piece(" | ".join(str(value) for value in schema["enum"]))]
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return _joined([type_of({**schema, "type": each}) for each in kind], " or ")
    if kind == "array":
        return [Piece("list of "), *type_of(schema.get("items", {}))]
    return [Piece(str(schema.get("format", kind)) if kind == "string" else str(kind))]


def _joined(parts: list[list[Piece]], between: str) -> list[Piece]:
    joined: list[Piece] = []
    for part in parts:
        joined += [Piece(between), *part] if joined else part
    return joined


def _text(given: Mapping[str, Any]) -> list[str]:
    return [str(given["description"]).replace("``", "")] if given.get("description") else []


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    """What a value must keep to, in words."""
    for variant in (schema, *schema.get("anyOf", ())):
        low, high = variant.get("minimum"), variant.get("maximum")
        if low is not None and high is not None:
            yield f"{low:,} to {high:,}"
        shortest, longest = variant.get("minLength"), variant.get("maxLength")
        if longest is not None:
            yield f"{shortest or 0:,} to {longest:,} characters"
        few, many = variant.get("minItems"), variant.get("maxItems")
        if many is not None:
            yield f"{few or 0:,} to {many:,} items"
    if schema.get("default") is not None:
        yield f"default: {json.dumps(schema['default'], ensure_ascii=False)}"
