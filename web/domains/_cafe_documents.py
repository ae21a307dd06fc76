"""What OpenAPI says of cafés."""

from __future__ import annotations

from typing import Any, Final

from models.cafes import CafeStatus
from web.components import hoisted
from web.domains._cafe_import import MAX_ROWS, ImportedCafe

#: Cafés per page, unless the request says otherwise, and at most.
DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200

_TEXT: Final = {"type": "string"}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}
_MAYBE_NUMBER: Final = {"type": ["number", "null"]}
_MAYBE_TIME: Final = {"type": ["string", "null"], "format": "date-time"}
_UUID: Final = {"type": "string", "format": "uuid"}
_LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
_STATUS: Final = {"enum": [str(status) for status in CafeStatus]}

_CAFE: Final[dict[str, Any]] = {
    "id": _UUID,
    "name": _TEXT,
    "slug": _TEXT,
    "city_slug": _TEXT,
    "address": _MAYBE_TEXT,
    "latitude": _MAYBE_NUMBER,
    "longitude": _MAYBE_NUMBER,
    "status": _STATUS,
    "discard_reason": _MAYBE_TEXT,
    "processed": {"type": "boolean"},
    "processed_at": _MAYBE_TIME,
    "rating": {**_MAYBE_NUMBER, "minimum": 1, "maximum": 5},
    "review_count": {"type": ["integer", "null"], "minimum": 0},
    "price_level": {"type": ["integer", "null"], "minimum": 0, "maximum": 4},
    "opening_hours": {
        "type": ["object", "null"],
        "description": 'By weekday, `{"mon": [["08:00", "18:00"]]}`; a day that is missing is a closed one.',
    },
    "website": _MAYBE_TEXT,
    "links": {"type": "object"},
    "source": _TEXT,
    "source_place_id": _MAYBE_TEXT,
    "error_message": {**_MAYBE_TEXT, "description": "What the latest attempt failed of, while it failed."},
    "job_id": {"type": ["string", "null"], "format": "uuid", "description": "The job that wrote this last."},
    "created_at": {"type": "string", "format": "date-time"},
    "updated_at": {"type": "string", "format": "date-time"},
}
_CITY: Final[dict[str, Any]] = {
    "slug": _TEXT,
    "name": _TEXT,
    "country_code": _TEXT,
    "cafes_count": {"type": "integer", "minimum": 0, "description": "Published cafés, as last counted."},
    "counted_at": _MAYBE_TIME,
    "status": {"enum": ["ACTIVE", "HIDDEN"]},
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str, text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ref(name)}}}


def _problems(**texts: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    texts = {"s401": "No key, or one that is not valid", **texts, "s503": "Postgres does not answer"}
    return {status.removeprefix("s"): {"description": text, "content": content} for status, text in texts.items()}


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text, "required": False}


SCHEMAS: Final[dict[str, Any]] = {
    "Cafe": _object(_CAFE),
    "CafePage": _object({"cafes": {"type": "array", "items": _ref("Cafe")}, "next": _MAYBE_TEXT}),
    "City": _object(_CITY),
    "Cities": _object({"cities": {"type": "array", "items": _ref("City")}}),
    **hoisted("ImportedCafe", ImportedCafe.model_json_schema(by_alias=True)),
    "CafeFile": {
        **_object({"cafes": {"type": "array", "items": _ref("ImportedCafe"), "minItems": 1, "maxItems": MAX_ROWS}}),
        "additionalProperties": False,
    },
    "CafeImport": _object({"created": {"type": "integer"}, "updated": {"type": "integer"}}),
}

PATHS: Final[dict[str, Any]] = {
    "/cafes": {
        "get": {
            "operationId": "listCafes",
            "summary": "The tenant's cafés, by city and name",
            "parameters": [
                _query("status", _STATUS, "Only these."),
                _query("city", _TEXT, "Only this city, by its slug."),
                _query(
                    "limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}, "Cafés."
                ),
                _query("after", _TEXT, "The cursor that the page before named as its next."),
            ],
            "responses": {"200": _json("CafePage", "A page"), **_problems(s400="A wrong parameter")},
        },
    },
    "/cafes/import": {
        "post": {
            "operationId": "importCafes",
            "summary": "Make cafés, or refresh those that are there",
            "description": "JSON, or CSV with a header of the same names. All or nothing.",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _ref("CafeFile")}, "text/csv": {"schema": _TEXT}},
            },
            "responses": {
                "200": _json("CafeImport", "How many"),
                **_problems(
                    s400="Not JSON, or JSON that cannot be kept",
                    s403="A session without its CSRF token",
                    s409="The same café stands there twice",
                    s413="Larger than 8 MiB",
                    s415="Neither JSON nor CSV",
                    s422="A field is missing, unknown or wrong",
                ),
            },
        },
    },
    "/cafes/{cafe_id}": {
        "parameters": [
            {"name": "cafe_id", "in": "path", "required": True, "schema": _UUID, "description": "The café's id."}
        ],
        "get": {
            "operationId": "getCafe",
            "summary": "One café",
            "responses": {"200": _json("Cafe", "The café"), **_problems(s404="No such café")},
        },
    },
    "/cities": {
        "get": {
            "operationId": "listCities",
            "summary": "The tenant's cities and how many published cafés each has",
            "responses": {"200": _json("Cities", "All"), **_problems()},
        },
    },
}
