"""What ``/openapi.json`` says of datasets."""

from __future__ import annotations

from typing import Any, Final

from web.answers import (
    COUNT,
    TEXT,
    TEXT_OR_NULL,
    TIME,
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

#: Any text that is not empty and has no NUL; whether it can be parsed is for the job to find out.
_ROWS: Final = {"schema": {"type": "string", "minLength": 1, "pattern": "^[^\\u0000]+$"}}
_MEDIA: Final = ("text/csv", "application/x-ndjson", "application/jsonl")
_ID: Final = parameter("dataId", "path", UUID, "Chosen by whoever puts it; other tenants may use the same.")
_ETAG: Final = {"description": "SHA-256 of the bytes", "schema": {"type": "string", "pattern": '^"[0-9a-f]{64}"$'}}
#: An id, 16 bytes in base64url.
_CURSOR: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{21}[AQgw]$"}
_TAG: Final = "Datasets"

SCHEMAS: Final[dict[str, Any]] = {
    "Dataset": object_of(
        {
            "id": UUID,
            "content_type": {"enum": list(_MEDIA)},
            "size": {**COUNT, "description": "Bytes."},
            "lines": {**COUNT, "description": "Lines, empty ones and a CSV's header too."},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "created_at": TIME,
            "updated_at": {**TIME, "description": "When these bytes were put."},
            "expires_at": {**TIME, "description": "Seven days after the last use."},
            "links": object_of({"self": TEXT}),
        },
        additionalProperties=False,
    ),
    "DatasetPage": object_of({"datasets": list_of("Dataset"), "next": TEXT_OR_NULL}),
}

_MISSING: Final = "No such dataset; none that is another tenant's either"
_PARAMETER: Final = "A parameter that there is not"
_CSRF: Final = "A session without its CSRF token"

PATHS: Final[dict[str, Any]] = {
    "/datasets": {
        "get": operation(
            "listDatasets",
            "The tenant's datasets, in order of their ids",
            {"200": json_answer(ref("DatasetPage"), "A page", Link="The next page")},
            problems(s400="A wrong parameter"),
            tag=_TAG,
            parameters=[
                parameter("limit", "query", page_size(100, 20), "Datasets."),
                parameter("after", "query", _CURSOR, "The cursor that the page before named as its next."),
            ],
        )
    },
    "/datasets/{dataId}": {
        "parameters": [_ID],
        "put": operation(
            "putDataset",
            "Create or replace a dataset",
            {
                "200": json_answer(ref("Dataset"), "Replaced", ETag=_ETAG),
                "201": json_answer(ref("Dataset"), "Created", ETag=_ETAG, Location="The dataset"),
            },
            problems(
                s400=_PARAMETER,
                s403=_CSRF,
                s404="The id is no UUID",
                s408="The upload took too long",
                s413="Larger than 50 MiB",
                s415="Neither CSV nor JSON lines, or not UTF-8",
                s422="Empty, not UTF-8, or with a NUL",
            ),
            tag=_TAG,
            description=(
                "CSV with a header, or JSON lines; UTF-8, at most 50 MiB. Until it has arrived whole, everybody sees "
                "what was there before."
            ),
            requestBody={"required": True, "content": dict.fromkeys(_MEDIA, _ROWS)},
        ),
        "get": operation(
            "getDataset",
            "A dataset's bytes, as they were put",
            {
                "200": {
                    "description": "The bytes",
                    "content": {name: {"schema": TEXT} for name in _MEDIA},
                    "headers": {"ETag": _ETAG},
                },
                "304": {"description": "Known", "headers": {"ETag": _ETAG}},
            },
            problems(s400=_PARAMETER, s404=_MISSING),
            tag=_TAG,
        ),
        "delete": operation(
            "deleteDataset",
            "Delete a dataset",
            {"204": {"description": "Deleted"}},
            problems(s400=_PARAMETER, s403=_CSRF, s404=_MISSING),
            tag=_TAG,
        ),
    },
}
