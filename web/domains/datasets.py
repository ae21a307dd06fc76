"""``/datasets``: a tenant's files of rows, in and out by the chunk, so that no file is ever whole in memory."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from models import datasets
from models.rows import Row, all_rows, one_row
from web.auth import Caller, require
from web.domain import Domain
from web.domains.datasets_openapi import PATHS, SCHEMAS
from web.problems import Fault, Problem
from web.services import services

#: Media types of a dataset; the first is CSV, the others both mean JSON lines.
MEDIA_TYPES: Final = ("text/csv", "application/x-ndjson", "application/jsonl")
#: Seconds that an upload may take; well within what the tables grant it.
UPLOAD_S: Final = 1_800.0
DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
#: The one spelling, as for jobs.
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


Connect = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


def cursor_of(dataset: UUID) -> str:
    """The cursor that continues after this dataset."""
    return urlsafe_b64encode(dataset.bytes).decode().rstrip("=")


def id_of(cursor: str) -> UUID:
    """The dataset after which a cursor continues. Raises ValueError."""
    raw = urlsafe_b64decode(cursor.encode("ascii") + b"==")
    if len(raw) != 16 or cursor_of(UUID(bytes=raw)) != cursor:
        raise ValueError("not a cursor")
    return UUID(bytes=raw)


class Upload:
    """Writes bytes as they come as the chunks of a new content.

    Raises, from every method:
      Problem: 422 for bytes that are no UTF-8 text or contain a NUL, 408 when the upload is too old.
    """

    def __init__(self, connect: Connect) -> None:
        self.content = uuid4()
        self.size = 0
        self._connect = connect
        self._number = 0
        self._waiting = bytearray()
        self._digest = hashlib.sha256()
        self._lines = 0
        self._last = b"\n"
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    async def begin(self, tenant: str, media_type: str) -> None:
        """Before the first bytes."""
        parameters = {"content": self.content, "tenant": tenant, "media_type": media_type}
        async with self._connect() as connection:
            await connection.execute(datasets.begin_content(), parameters)

    async def write(self, data: bytes) -> None:
        """The next bytes."""
        self._look_at(data)
        self._waiting += data
        while len(self._waiting) >= datasets.CHUNK_BYTES:
            await self._store(bytes(self._waiting[: datasets.CHUNK_BYTES]))
            del self._waiting[: datasets.CHUNK_BYTES]

    async def finish(self, tenant: str, dataset: UUID) -> bool:
        """After the last bytes: let the dataset be these; returns whether it is new."""
        self._look_at(b"", final=True)
        if self.size == 0:
            raise _unprocessable("is empty")
        if self._waiting:
            await self._store(bytes(self._waiting))
        put = {
            "tenant": tenant,
            "dataset": dataset,
            "content": self.content,
            "bytes_in_all": self.size,
            "line_count": self._lines + (self._last != b"\n"),
            "digest": self._digest.digest(),
        }
        async with self._connect() as connection:
            row = (await connection.execute(datasets.put_dataset(), put)).first()
        if row is None:
            raise _too_slow()
        return bool(row.created_at == row.updated_at)

    async def drop(self) -> None:
        """It came to no end: nothing remains of it."""
        async with self._connect() as connection:
            await connection.execute(datasets.drop_content(), {"content": self.content})

    def _look_at(self, data: bytes, *, final: bool = False) -> None:
        at = self.size
        self.size += len(data)
        try:
            self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise _unprocessable(f"is not valid UTF-8 near byte {at + max(error.start, 0)}") from None
        if (nul := data.find(b"\0")) >= 0:
            raise _unprocessable(f"contains a NUL at byte {at + nul}")
        if data:
            self._digest.update(data)
            self._lines += data.count(b"\n")
            self._last = data[-1:]

    async def _store(self, data: bytes) -> None:
        parameters = {"content": self.content, "chunk": self._number, "bytes": data}
        async with self._connect() as connection:
            if (await connection.execute(datasets.add_chunk(), parameters)).first() is None:
                raise _too_slow()
        self._number += 1


async def one_dataset(request: Request) -> Response:
    """``/datasets/{dataId}``; one endpoint, so that a 405 names every method that there is."""
    answer = {"PUT": put_dataset, "DELETE": delete_dataset}.get(request.method, get_dataset)
    return await answer(request)


async def put_dataset(request: Request) -> Response:
    """``PUT``: 201 for a new dataset, 200 for one that is replaced; until then everybody sees the old one."""
    if request.headers.get("content-type", "").startswith(_FORMS):
        _media_type(request.headers)  # before anybody looks for a session's token in 50 MiB of form
    caller = await require(request)
    _take_no_parameters(request)
    dataset = _data_id(request)
    media_type = _media_type(request.headers)
    connect = _connect(request, caller)
    upload = Upload(connect)
    try:
        async with asyncio.timeout(UPLOAD_S):
            await upload.begin(caller.tenant_id, media_type)
            async for data in request.stream():
                await upload.write(data)
            new = await upload.finish(caller.tenant_id, dataset)
    except BaseException as error:
        # Also when the client is gone, the body too large, this process stopping. What this cannot reach expires.
        await asyncio.shield(upload.drop())
        if isinstance(error, TimeoutError):
            raise _too_slow() from None
        if isinstance(error, ClientDisconnect):
            return Response(status_code=400)  # nobody is there to read it
        raise
    row = await _find(connect, caller.tenant_id, dataset)
    if row is None:  # deleted between the two statements
        raise _not_found(request)
    headers = {"ETag": _etag(row), "Cache-Control": "private, no-store"}
    if new:
        headers["Location"] = _path(dataset)
    return JSONResponse(_json(row), 201 if new else 200, headers=headers)


async def get_dataset(request: Request) -> Response:
    """``GET`` and ``HEAD``: the bytes as they were put, or 304 when the client has them."""
    caller = await require(request)
    _take_no_parameters(request)
    connect = _connect(request, caller)
    row = await _find(connect, caller.tenant_id, _data_id(request))
    if row is None:
        raise _not_found(request)
    tag = _etag(row)
    headers = {
        "ETag": tag,
        "Cache-Control": "private, no-cache",
        "Last-Modified": row["updated_at"].strftime("%a, %d %b %Y %H:%M:%S GMT"),
    }
    known = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    headers |= {
        "Content-Length": str(row["size"]),
        "Content-Type": row["media_type"] + ("; charset=utf-8" if row["media_type"] == MEDIA_TYPES[0] else ""),
        # Anybody's bytes: a browser must neither guess at them nor show them as a page of ours.
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'attachment; filename="{row["id"]}.{_extension(row)}"',
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    return StreamingResponse(_chunks(connect, row["content_id"], row["size"]), headers=headers)


async def delete_dataset(request: Request) -> Response:
    """``DELETE``: 204; who reads it just now may read to the end."""
    caller = await require(request)
    _take_no_parameters(request)
    parameters = {"tenant": caller.tenant_id, "dataset": _data_id(request)}
    async with _connect(request, caller)() as connection:
        gone = (await connection.execute(datasets.delete_dataset(), parameters)).first()
    if gone is None:
        raise _not_found(request)
    return Response(status_code=204)


async def list_datasets(request: Request) -> Response:
    """``GET /datasets``: ``{datasets, next}`` in order of their ids."""
    caller = await require(request)
    _take_no_parameters(request, "limit", "after")
    limit, after = DEFAULT_LIMIT, None
    if (text := request.query_params.get("limit")) is not None:
        if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
            raise _bad_parameter("limit", f"must be from 1 to {MAX_LIMIT}")
        limit = int(text)
    if (text := request.query_params.get("after")) is not None:
        try:
            after = id_of(text)
        except ValueError:
            raise _bad_parameter("after", "is not a cursor that a page named as its next") from None
    parameters = {"tenant": caller.tenant_id, "room": limit + 1} | ({"after": after} if after else {})
    async with _connect(request, caller)() as connection:
        rows = all_rows(await connection.execute(datasets.list_datasets(after=after is not None), parameters))
    following = cursor_of(rows[limit - 1]["id"]) if len(rows) > limit else None
    headers = {"Cache-Control": "private, no-store"}
    if following is not None:
        headers["Link"] = f'<{request.url.path}?limit={limit}&after={following}>; rel="next"'
    document = {"datasets": [_json(row) for row in rows[:limit]], "next": following}
    return JSONResponse(document, headers=headers)


def _connect(request: Request, caller: Caller) -> Connect:
    """Opens transactions that see the caller's rows; no upload or download holds one while it waits for its client."""
    return lambda: services(request).tenant_connection(caller.tenant_id)


async def _find(connect: Connect, tenant: str, dataset: UUID) -> Row | None:
    async with connect() as connection:
        return one_row(await connection.execute(datasets.use_dataset(), {"tenant": tenant, "dataset": dataset}))


async def _chunks(connect: Connect, content: UUID, size: int) -> AsyncIterator[bytes]:
    """The bytes of a content; no connection is held while the client takes them."""
    number = 0
    while size > 0:
        async with connect() as connection:
            found = await connection.execute(datasets.one_chunk(), {"content": content, "chunk": number})
            data: bytes | None = found.scalar_one_or_none()
        if data is None:
            # The connection breaks off short of its Content-Length, which is what the client must learn.
            raise RuntimeError(f"content {content} expired while it was read")
        yield data
        size, number = size - len(data), number + 1


def _data_id(request: Request) -> UUID:
    text = request.path_params["dataId"]
    if not _UUID.fullmatch(text):
        raise _not_found(request)
    return UUID(text)


def _media_type(headers: Headers) -> str:
    media_type, *parameters = [part.strip().lower() for part in headers.get("content-type", "").split(";")]
    charsets = [part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")]
    if media_type not in MEDIA_TYPES or not set(charsets) <= {"utf-8", "utf8"}:
        raise Problem(
            415,
            f"The body must be one of {', '.join(MEDIA_TYPES)} in UTF-8, and Content-Type must say so; "
            "nothing was stored.",
            slug="no-dataset",
            headers={"Accept": ", ".join(MEDIA_TYPES)},
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "The body must not be compressed; nothing was stored.", slug="no-dataset")
    return media_type


def _take_no_parameters(request: Request, *but: str) -> None:
    for name in request.query_params:
        if name not in but:
            raise _bad_parameter(name[:100], f"is not a parameter here; there are {', '.join(but) or 'none'}")
        if len(request.query_params.getlist(name)) > 1:
            raise _bad_parameter(name, "must stand there once")


def _bad_parameter(name: str, fault: str) -> Problem:
    return Problem(400, f"{name}: {fault}.", slug="bad-parameter", faults=[Fault(name, fault, "parameter")])


def _unprocessable(fault: str) -> Problem:
    faults = [Fault("", fault)]
    return Problem(422, f"The dataset {fault}; nothing was stored.", slug="bad-dataset", faults=faults)


def _too_slow() -> Problem:
    return Problem(408, f"The upload took longer than {UPLOAD_S:g} s; nothing was stored.", slug="upload-too-slow")


def _not_found(request: Request) -> Problem:
    """404: no UUID, unknown, expired, or another tenant's; which of them is not told."""
    text = str(request.path_params["dataId"])[:100].replace("\0", "")
    return Problem(404, f"There is no dataset {text}.", slug="no-such-dataset")


def _path(dataset: UUID) -> str:
    return f"/datasets/{dataset}"


def _etag(row: Mapping[str, Any]) -> str:
    return f'"{row["sha256"].hex()}"'


def _extension(row: Mapping[str, Any]) -> str:
    return "csv" if row["media_type"] == MEDIA_TYPES[0] else "jsonl"


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "content_type": row["media_type"],
        "size": row["size"],
        "lines": row["lines"],
        "sha256": row["sha256"].hex(),
        **{name: _time(row[name]) for name in ("created_at", "updated_at", "expires_at")},
        "links": {"self": _path(row["id"])},
    }


DOMAIN = Domain(
    routes=[
        Route("/datasets", list_datasets),
        Route("/datasets/{dataId}", one_dataset, methods=["GET", "PUT", "DELETE"]),
    ],
    paths=PATHS,
    schemas=SCHEMAS,
    body_limits={"/datasets/": datasets.MAX_BYTES},
)
