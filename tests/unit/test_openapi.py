"""The OpenAPI document: valid 3.1, references that exist, and true of the routes that are served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import openapi_pydantic
import pytest
from pydantic import BaseModel
from starlette.routing import Route

import actors  # noqa: F401 - installs the broker and the job types
from actors.runtime.job_type import job_types
from web.components import hoisted
from web.openapi import document
from web.routes import routes

#: Members of a path item that are operations.
METHODS = ("get", "head", "post", "put", "delete")


@pytest.fixture
def api() -> dict[str, Any]:
    return document(list(job_types().values()), "http://localhost:8000")


def references(value: Any) -> Iterator[str]:
    """Every ``$ref`` in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_it_is_valid(api: dict[str, Any]) -> None:
    parsed = openapi_pydantic.parse_obj(api)
    assert parsed.openapi.startswith("3.1")
    assert parsed.paths


def test_every_reference_exists(api: dict[str, Any]) -> None:
    for reference in references(api):
        target: Any = api
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert isinstance(target, dict)


def methods_of(endpoint: Any) -> set[str]:
    """What an ``HTTPEndpoint`` serves; it takes HEAD where it takes GET."""
    found = {method.upper() for method in METHODS if hasattr(endpoint, method)}
    return found | {"HEAD"} if "GET" in found else found


def test_it_names_every_route_of_the_api_and_no_other(api: dict[str, Any]) -> None:
    pages = re.compile(r"/(send|sign-in|sign-out|docs|board.*)?")
    served = {
        (route.path, method)
        for route in routes()
        if isinstance(route, Route) and not pages.fullmatch(route.path)
        for method in route.methods or methods_of(route.endpoint)
    }
    described = {(path, method.upper()) for path, item in api["paths"].items() for method in item if method in METHODS}
    assert served == described


def test_every_job_type_can_be_sent(api: dict[str, Any]) -> None:
    alternatives = [name.rpartition("/")[2] for name in references(api["components"]["schemas"]["Send"])]
    names = {api["components"]["schemas"][name]["properties"]["type"]["const"] for name in alternatives}
    assert names == set(job_types())


def test_nested_models_become_components() -> None:
    class Inner(BaseModel):
        value: int

    class Outer(BaseModel):
        inner: Inner
        more: list[Inner]

    found = hoisted("Payload.x", Outer.model_json_schema())
    assert found.keys() == {"Payload.x", "Payload.x.Inner"}
    assert set(references(found)) == {"#/components/schemas/Payload.x.Inner"}
