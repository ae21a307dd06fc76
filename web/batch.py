"""``POST /jobs/batch``: up to 1,000 jobs, all accepted or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dramatiq import Message
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.errors import DataRefused, PayloadRefused
from actors.runtime.job_type import job_types
from models.json_data import MAX_ARGS_BYTES, MAX_DEPTH, encode
from models.rows import Row
from web.auth import require
from web.bodies import MAX_FAULTS, checked, in_turn, parse, read_body, refused
from web.idempotency import Answer, accept, once, read_key
from web.job_json import sent_json
from web.problems import Fault
from web.send_options import Batch, Send

PATH: Final = "/jobs/batch"
#: Bytes of a body.
MAX_BODY: Final = 16 * 1024 * 1024
#: A payload may be as deep here as in POST /jobs, and lies two levels further down.
_MAX_DEPTH: Final = MAX_DEPTH + 2


async def post_batch(request: Request) -> Response:
    """``POST /jobs/batch`` ``{jobs: [...]}``: 202 and the jobs in order."""
    caller = await require(request)
    key = read_key(request)
    body = await read_body(request)
    answer = await in_turn(_accept, caller.tenant_id, key, body)
    return JSONResponse(answer.document, 202, headers=answer.headers())


def _accept(tenant_id: str, key: str | None, body: bytes) -> Answer:
    document = parse(body, max_depth=_MAX_DEPTH)
    messages = _messages(checked(Batch, document).jobs, tenant_id)
    return accept(tenant_id, messages, _render, once(key, f"POST {PATH}", document))


def _messages(jobs: Sequence[Send], tenant_id: str) -> list[Message[Any]]:
    """Raises Problem with the pointers of what is wrong with payloads."""
    known = job_types()
    messages: list[Message[Any]] = []
    faults: list[Fault] = []
    for number, job in enumerate(jobs):
        here = f"/jobs/{number}/payload"
        try:
            options = job.options.given() if job.options else {}
            message = known[job.type].message(job.payload, **options, tenant_id=tenant_id)
            encode(message.kwargs, max_bytes=MAX_ARGS_BYTES)  # the model's defaults may have made it larger
            messages.append(message)
        except PayloadRefused as wrong:
            faults += [Fault(here + pointer, text) for pointer, text in wrong.faults]
        except DataRefused as wrong:
            faults.append(Fault(here + wrong.pointer, wrong.reason))
        if len(faults) > MAX_FAULTS:
            break
    if faults:
        raise refused(faults)
    return messages


def _render(jobs: Sequence[tuple[Row, bool]]) -> dict[str, Any]:
    return {"jobs": [sent_json(row, duplicate=duplicate) for row, duplicate in jobs]}
