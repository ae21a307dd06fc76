"""What ``/openapi.json`` says of datasets."""

from __future__ import annotations

from typing import Any, Final

_TEXT: Final = {"type": "string"}
_TIME: Final = {"type": "string", "format": "date-time"}
_COUNT: Final = {"type": "integer", "minimum": 0}
#: Any text that is not empty and has no NUL; whether it can be parsed is for the job to find out.
_ROWS: Final = {"schema": {"type": "string", "minLength": 1, "pattern": "^[^\\u0000]+$"}}
_MEDIA: Final = ("text/csv", "application/x-ndjson", "application/jsonl")
_ID: Final = {
    "name": "dataId",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
    "description": "Chosen by whoever puts it; other tenants may use the same.",
}
_ETAG: Final = {"ETag": {"description": "SHA-256 of the bytes", "schema": _TEXT}}

SCHEMAS: Final[dict[str, Any]] = {
    "Dataset": {
        "type": "object",
        "required": [
            "id",
            "content_type",
            "size",
            "lines",
            "sha256",
            "created_at",
            "updated_at",
            "expires_at",
            "links",
        ],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "content_type": {"enum": list(_MEDIA)},
            "size": {**_COUNT, "description": "Bytes."},
            "lines": {**_COUNT, "description": "Lines, empty ones and a CSV's header too."},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "created_at": _TIME,
            "updated_at": {**_TIME, "description": "When these bytes were put."},
            "expires_at": {**_TIME, "description": "Seven days after the last use."},
            "links": {"type": "object", "required": ["self"], "properties": {"self": _TEXT}},
        },
    },
    "DatasetPage": {
        "type": "object",
        "required": ["datasets", "next"],
        "properties": {
            "datasets": {"type": "array", "items": {"$ref": "#/components/schemas/Dataset"}},
            "next": {"type": ["string", "null"]},
        },
    },
}


def _problems(**texts: str) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    texts = {"s401": "No key, or one that is not valid", **texts, "s503": "Postgres does not answer"}
    return {status.removeprefix("s"): {"description": text, "content": content} for status, text in texts.items()}


def _answer(schema: str, text: str, **headers: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": text, "content": content, "headers": headers}


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": _TEXT}


_MISSING: Final = "No such dataset; none that is another tenant's either"
_PARAMETER: Final = "A parameter that there is not"
_CSRF: Final = "A session without its CSRF token"

PATHS: Final[dict[str, Any]] = {
    "/datasets": {
        "get": {
            "operationId": "listDatasets",
            "summary": "The tenant's datasets, in order of their ids",
            "parameters": [
                {
                    "name": "limit",
                    "in": "query",
                    "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
                    "description": "Datasets.",
                },
                {
                    "name": "after",
                    "in": "query",
                    "schema": _TEXT,
                    "description": "The cursor that the page before named as its next.",
                },
            ],
            "responses": {"200": _answer("DatasetPage", "A page", Link=_header("The next page"))}
            | _problems(s400="A wrong parameter"),
        }
    },
    "/datasets/{dataId}": {
        "parameters": [_ID],
        "put": {
            "operationId": "putDataset",
            "summary": "Create or replace a dataset",
            "description": (
                "CSV with a header, or JSON lines; UTF-8, at most 50 MiB. Until it has arrived whole, everybody sees "
                "what was there before."
            ),
            "requestBody": {"required": True, "content": dict.fromkeys(_MEDIA, _ROWS)},
            "responses": {
                "200": _answer("Dataset", "Replaced", **_ETAG),
                "201": _answer("Dataset", "Created", **_ETAG, Location=_header("The dataset")),
            }
            | _problems(
                s400=_PARAMETER,
                s403=_CSRF,
                s404="The id is no UUID",
                s408="The upload took too long",
                s413="Larger than 50 MiB",
                s415="Neither CSV nor JSON lines, or not UTF-8",
                s422="Empty, not UTF-8, or with a NUL",
            ),
        },
        "get": {
            "operationId": "getDataset",
            "summary": "A dataset's bytes, as they were put",
            "responses": {
                "200": {
                    "description": "The bytes",
                    "content": {name: {"schema": _TEXT} for name in _MEDIA},
                    "headers": _ETAG,
                },
                "304": {"description": "Known", "headers": _ETAG},
            }
            | _problems(s400=_PARAMETER, s404=_MISSING),
        },
        "delete": {
            "operationId": "deleteDataset",
            "summary": "Delete a dataset",
            "responses": {"204": {"description": "Deleted"}} | _problems(s400=_PARAMETER, s403=_CSRF, s404=_MISSING),
        },
    },
}
