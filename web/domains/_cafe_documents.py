"""What OpenAPI says of cafés."""

from __future__ import annotations

from typing import Any, Final

from models.cafes import CafeStatus
from web.answers import (
    COUNT,
    TEXT,
    TEXT_OR_NULL,
    TIME,
    TIME_OR_NULL,
    UUID,
    json_answer,
    list_of,
    object_of,
    operation,
    page_size,
    parameter,
    problems,
    ref,
)
from web.components import hoisted
from web.domains._cafe_import import MAX_ROWS, ImportedCafe

#: Cafés per page, unless the request says otherwise, and at most.
DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200
#: City and slug of the last café on a page.
CURSOR_PATTERN: Final = r"[a-z0-9-]{1,200}~[a-z0-9-]{1,200}"

_TAG: Final = "Cafés"
_NUMBER_OR_NULL: Final = {"type": ["number", "null"]}
_CURSOR: Final = {"type": "string", "pattern": f"^{CURSOR_PATTERN}$"}
_EXAMPLE: Final = {"cafes": [{"name": "Kaffee am Spittelberg", "city": "Wien", "countryCode": "AT"}]}
_STATUS: Final = {"enum": [str(status) for status in CafeStatus]}

_CAFE: Final[dict[str, Any]] = {
    "id": UUID,
    "name": TEXT,
    "slug": TEXT,
    "city_slug": TEXT,
    "address": TEXT_OR_NULL,
    "latitude": _NUMBER_OR_NULL,
    "longitude": _NUMBER_OR_NULL,
    "status": _STATUS,
    "discard_reason": TEXT_OR_NULL,
    "processed": {"type": "boolean"},
    "processed_at": TIME_OR_NULL,
    "rating": {**_NUMBER_OR_NULL, "minimum": 1, "maximum": 5},
    "review_count": {"type": ["integer", "null"], "minimum": 0},
    "price_level": {"type": ["integer", "null"], "minimum": 0, "maximum": 4},
    "opening_hours": {
        "type": ["object", "null"],
        "description": 'By weekday, `{"mon": [["08:00", "18:00"]]}`; a day that is missing is a closed one.',
    },
    "website": TEXT_OR_NULL,
    "links": {"type": "object"},
    "source": TEXT,
    "source_place_id": TEXT_OR_NULL,
    "error_message": {**TEXT_OR_NULL, "description": "What the latest attempt failed of, while it failed."},
    "job_id": {"type": ["string", "null"], "format": "uuid", "description": "The job that wrote this last."},
    "created_at": TIME,
    "updated_at": TIME,
}
_CITY: Final[dict[str, Any]] = {
    "slug": TEXT,
    "name": TEXT,
    "country_code": TEXT,
    "cafes_count": {**COUNT, "description": "Published cafés, as last counted."},
    "counted_at": TIME_OR_NULL,
    "status": {"enum": ["ACTIVE", "HIDDEN"]},
}


SCHEMAS: Final[dict[str, Any]] = {
    "Cafe": object_of(_CAFE),
    "CafePage": object_of({"cafes": list_of("Cafe"), "next": TEXT_OR_NULL}),
    "City": object_of(_CITY),
    "Cities": object_of({"cities": list_of("City")}),
    **hoisted("ImportedCafe", ImportedCafe.model_json_schema(by_alias=True)),
    "CafeFile": {
        **object_of({"cafes": {**list_of("ImportedCafe"), "minItems": 1, "maxItems": MAX_ROWS}}),
        "additionalProperties": False,
    },
    "CafeImport": object_of({"created": COUNT, "updated": COUNT}),
}

PATHS: Final[dict[str, Any]] = {
    "/cafes": {
        "get": operation(
            "listCafes",
            "The tenant's cafés, by city and name",
            {"200": json_answer(ref("CafePage"), "A page")},
            problems(s400="A wrong parameter"),
            tag=_TAG,
            parameters=[
                parameter("status", "query", _STATUS, "Only these."),
                parameter("city", "query", TEXT, "Only this city, by its slug."),
                parameter("limit", "query", page_size(MAX_LIMIT, DEFAULT_LIMIT), "Cafés."),
                parameter("after", "query", _CURSOR, "The cursor that the page before named as its next."),
            ],
        ),
    },
    "/cafes/import": {
        "post": operation(
            "importCafes",
            "Make cafés, or refresh those that are there",
            {"200": json_answer(ref("CafeImport"), "How many")},
            problems(
                s400="Not JSON, or JSON that cannot be kept",
                s403="A session without its CSRF token",
                s409="The same café stands there twice",
                s413="Larger than 8 MiB",
                s415="Neither JSON nor CSV",
                s422="A field is missing, unknown or wrong",
            ),
            tag=_TAG,
            description="JSON, or CSV with a header of the same names. All or nothing.",
            requestBody={
                "required": True,
                "content": {
                    "application/json": {"schema": ref("CafeFile"), "examples": {"one": {"value": _EXAMPLE}}},
                    "text/csv": {"schema": TEXT},
                },
            },
        ),
    },
    "/cafes/{cafe_id}": {
        "parameters": [parameter("cafe_id", "path", UUID, "The café's id.")],
        "get": operation(
            "getCafe",
            "One café",
            {"200": json_answer(ref("Cafe"), "The café")},
            problems(s404="No such café"),
            tag=_TAG,
        ),
    },
    "/cities": {
        "get": operation(
            "listCities",
            "The tenant's cities and how many published cafés each has",
            {"200": json_answer(ref("Cities"), "All")},
            problems(),
            tag=_TAG,
        ),
    },
}
