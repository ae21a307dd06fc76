"""The routes of jobs: send, list, look at, cancel, retry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from dramatiq import Message
from sqlalchemy.exc import IntegrityError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.job_type import job_types
from actors.runtime.sending import asend_many, our_broker
from models import ledger, queries
from models.rows import Row, all_rows, one_row
from models.state import TERMINAL, Status, sources
from web.auth import Caller, require
from web.bodies import checked, parse, read_body
from web.idempotency import Answer, accept, once, read_key
from web.job_json import etag, job_json, job_path, sent_json
from web.job_paths import job_not_found, parse_job_id
from web.problems import Problem
from web.send_options import Send
from web.services import services


async def send_job(request: Request, caller: Caller, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Send what a body ``{type, payload, options?}`` asks for; the board's form comes here too.

    Returns: the job's row and whether it is an older job with the same unique key.

    Raises:
      Problem, DataRefused, OptionRefused, PayloadRefused, UniqueKeyBusy: nothing was stored.
    """
    sent = (await asend_many([_message(caller, checked(Send, body))]))[0]
    row = await find_job(request, caller, UUID(sent.message_id))
    if row is None:  # pruned or deleted between the two statements
        raise job_not_found(sent.message_id)
    return row, bool(sent.options.get("duplicate"))


def _message(caller: Caller, send: Send) -> Message[Any]:
    options = send.options.given() if send.options else {}
    return job_types()[send.type].message(send.payload, **options, tenant_id=caller.tenant_id)


async def find_job(request: Request, caller: Caller, job_id: UUID) -> Mapping[str, Any] | None:
    """The caller's job as a row of JOB_COLUMNS, or None."""
    async with services(request).engine.connect() as connection:
        found = await connection.execute(queries.one_job(), {"tenant": caller.tenant_id, "job_id": job_id})
        return one_row(found)


async def _the_job(request: Request, caller: Caller) -> Mapping[str, Any]:
    text = request.path_params["job_id"]
    row = await find_job(request, caller, parse_job_id(text))
    if row is None:
        raise job_not_found(text)
    return row


async def post_job(request: Request) -> Response:
    """``POST /jobs``: 202 and the job."""
    caller = await require(request)
    key = read_key(request)
    body = parse(await read_body(request))
    if key is None:
        row, duplicate = await send_job(request, caller, body)
        answer = Answer(sent_json(row, duplicate=duplicate))
    else:
        message = _message(caller, checked(Send, body))
        only = once(key, "POST /jobs", body)
        answer = await asyncio.to_thread(accept, caller.tenant_id, [message], _render, only)
    job = answer.document
    headers = {"Location": job_path(job["id"]), "ETag": etag(job), **answer.headers()}
    return JSONResponse(job, 202, headers=headers)


def _render(jobs: Sequence[tuple[Row, bool]]) -> dict[str, Any]:
    [(row, duplicate)] = jobs
    return sent_json(row, duplicate=duplicate)


async def get_job(request: Request) -> Response:
    """``GET /jobs/{id}``: the job, or 304 when the client has this version."""
    row = await _the_job(request, await require(request))
    tag = etag(row)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    known = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return JSONResponse(job_json(row), headers=headers)


async def get_result(request: Request) -> Response:
    """``GET /jobs/{id}/result``: 200 when COMPLETED; 409 saying how far it is, or why there will be none."""
    row = await _the_job(request, await require(request))
    status = Status(row["status"])
    if status is Status.COMPLETED:
        result = {"status": status, "result": row["result"]}
        if row["result_error"]:
            result["result_error"] = row["result_error"]
        return JSONResponse(result, headers={"ETag": etag(row), "Cache-Control": "private, no-cache"})
    if status in TERMINAL:
        detail = f"The job is {status}: it has no result."
        raise Problem(409, detail, slug="no-result", job_status=status, error=row["error"])
    detail = f"The job is {status}: it has no result yet."
    raise Problem(409, detail, slug="not-finished", job_status=status, error=row["error"])


async def cancel_job(request: Request, caller: Caller, job_id: UUID) -> Mapping[str, Any]:
    """Cancel the caller's job, or ask its running attempt to stop; returns the row afterwards.

    Raises:
      Problem: 404, or 409 when the job has ended.
    """
    return await _change(request, caller, job_id, "cancel", ledger.cancel())


async def retry_job(request: Request, caller: Caller, job_id: UUID) -> Mapping[str, Any]:
    """Give the caller's failed or cancelled job another attempt; returns the row afterwards.

    Raises:
      Problem: 404, or 409 when the state forbids or another job holds the unique key now.
    """
    try:
        return await _change(request, caller, job_id, "retry", ledger.replay())
    except IntegrityError as error:
        if "uq_jobs_unique_slot" not in str(error.orig):
            raise
        raise Problem(
            409, "Another job holds this job's unique key now; nothing was changed.", slug="unique-key-taken"
        ) from None


async def _change(request: Request, caller: Caller, job_id: UUID, name: str, statement: Any) -> Mapping[str, Any]:
    parameters = {"tenant": caller.tenant_id, "job_id": job_id}
    async with services(request).engine.connect() as connection:
        changed = all_rows(await connection.execute(statement, parameters))
        found = one_row(await connection.execute(queries.one_job(), parameters))
    our_broker().bell.announce(changed)
    if found is None:
        raise job_not_found(str(job_id))
    if not changed:
        allowed = "PENDING or RUNNING" if name == "cancel" else " or ".join(sorted(sources("replay")))
        raise Problem(
            409,
            f"The job is {found['status']}: {name} needs {allowed}; nothing was changed.",
            slug="state-forbids",
            job_status=found["status"],
        )
    return found


async def post_cancel(request: Request) -> Response:
    """``POST /jobs/{id}/cancel``: 200 when cancelled, 202 when a running attempt was asked to stop."""
    caller = await require(request)
    row = await cancel_job(request, caller, parse_job_id(request.path_params["job_id"]))
    return JSONResponse(job_json(row), 200 if row["status"] in TERMINAL else 202, headers={"ETag": etag(row)})


async def post_retry(request: Request) -> Response:
    """``POST /jobs/{id}/retry``: 202 and the job, PENDING again."""
    caller = await require(request)
    row = await retry_job(request, caller, parse_job_id(request.path_params["job_id"]))
    return JSONResponse(job_json(row), 202, headers={"ETag": etag(row)})
