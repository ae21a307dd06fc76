"""What the pieces of an OpenAPI document look like: schemas of objects, answers, problems, parameters, operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

COMPONENTS: Final = "#/components/schemas/"
TEXT: Final = {"type": "string"}
TEXT_OR_NULL: Final = {"type": ["string", "null"]}
TIME: Final = {"type": "string", "format": "date-time"}
TIME_OR_NULL: Final = {"type": ["string", "null"], "format": "date-time"}
UUID: Final = {"type": "string", "format": "uuid"}
COUNT: Final = {"type": "integer", "minimum": 0}
#: A header that is always there.
REQUIRED: Final = {"required": True, "schema": TEXT}


def ref(name: str) -> dict[str, str]:
    """A reference to a component."""
    return {"$ref": f"{COMPONENTS}{name}"}


def object_of(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """The schema of an object; all of its properties are required unless ``required`` names others."""
    return {
        "type": "object",
        "required": list(properties) if required is None else required,
        "properties": properties,
    } | more


def list_of(name: str) -> dict[str, Any]:
    """The schema of a list of one component."""
    return {"type": "array", "items": ref(name)}


def page_size(maximum: int, default: int) -> dict[str, Any]:
    """The schema of a ``limit``."""
    return {"type": "integer", "minimum": 1, "maximum": maximum, "default": default}


def json_answer(schema: dict[str, Any], text: str, **headers: Any) -> dict[str, Any]:
    """An answer in JSON. Headers (``-`` written ``_``): a description, or a header object."""
    answer: dict[str, Any] = {"description": text, "content": {"application/json": {"schema": schema}}}
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"description": what, "schema": TEXT} if isinstance(what, str) else what
            for name, what in headers.items()
        }
    return answer


def problems(**texts: str) -> dict[str, Any]:
    """Problems by status (``s404``). Every operation that knows its caller may answer 401 and 503."""
    texts = {"s401": "No key, or one that is not valid", **texts, "s503": "Postgres does not answer"}
    return {status.removeprefix("s"): _problem(status, text) for status, text in texts.items()}


def _problem(status: str, text: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": text,
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }
    if status == "s401":
        answer["headers"] = {"WWW-Authenticate": {**REQUIRED, "description": "What would be accepted"}}
    if status in ("s409", "s503"):
        what = "Seconds after which it may be repeated"
        answer["headers"] = {"Retry-After": {"description": what, "schema": COUNT}}
    return answer


def json_body(name: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON body that must be there."""
    content = {"schema": ref(name)} | ({"examples": dict(examples)} if examples else {})
    return {"required": True, "content": {"application/json": content}}


def parameter(name: str, place: str, schema: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    """A parameter; ``place``: query, path or header."""
    return {"name": name, "in": place, "schema": schema, "description": text, "required": place == "path", **more}


def operation(
    name: str, text: str, good: dict[str, Any], bad: dict[str, Any], *, tag: str, **more: Any
) -> dict[str, Any]:
    """An operation with its answers; the tag is the group in which the documentation shows it."""
    return {"operationId": name, "summary": text, "tags": [tag], "responses": good | bad, **more}
