"""One job as a page: what it is, how far it is, what went wrong, and the two things one can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from actors.runtime.job_type import payload_of
from models.state import LIVE, Status, sources
from web.auth import Caller
from web.job_paths import job_not_found, parse_job_id
from web.jobs import cancel_job, find_job, retry_job
from web.pages import moment, page, render
from web.problems import Problem


def path_of(job_id: object) -> str:
    """Where a person looks at this job; the API has it elsewhere."""
    return f"/board/jobs/{job_id}"


@page
async def job_page(request: Request, caller: Caller) -> Response:
    """``GET /board/jobs/{id}``."""
    notice = None
    if "duplicate" in request.query_params:
        notice = "Nothing new was sent: this job holds the unique key that you gave."
    return await _show(request, caller, notice=notice)


@page
async def post_cancel(request: Request, caller: Caller) -> Response:
    """``POST /board/jobs/{id}/cancel``: 303 back to the job, or the job with the reason why not."""
    return await _act(request, caller, cancel_job)


@page
async def post_retry(request: Request, caller: Caller) -> Response:
    """``POST /board/jobs/{id}/retry``: 303 back to the job, or the job with the reason why not."""
    return await _act(request, caller, retry_job)


async def to_job_page(request: Request) -> Response:
    """Somebody reloaded the address of a button that was refused."""
    return RedirectResponse(path_of(parse_job_id(request.path_params["job_id"])), 303)


async def _act(request: Request, caller: Caller, action: Any) -> Response:
    job_id = parse_job_id(request.path_params["job_id"])
    try:
        await action(request, caller, job_id)
    except Problem as problem:
        if problem.status != 409:
            raise
        return await _show(request, caller, refusal=problem.detail, status_code=409)
    return RedirectResponse(path_of(job_id), 303)


async def _show(
    request: Request, caller: Caller, *, refusal: str | None = None, notice: str | None = None, status_code: int = 200
) -> Response:
    text = request.path_params["job_id"]
    job = await find_job(request, caller, parse_job_id(text))
    if job is None:
        raise job_not_found(text)
    context = {"viewer": caller, "refusal": refusal, "notice": notice, **_context(job)}
    return render(request, "job.html", context, status_code=status_code)


def _context(job: Mapping[str, Any]) -> dict[str, Any]:
    status = Status(job["status"])
    started, finished = job["started_at"], job["finished_at"]
    times = {
        "Created": job["created_at"],
        "Not before": job["run_at"] if status is Status.PENDING and job["run_at"] > job["created_at"] else None,
        "Started": started,
        "Cancel asked": job["cancel_requested_at"],
        "Finished": finished,
    }
    return {
        "job": job,
        "can_cancel": status in LIVE and not (status is Status.RUNNING and job["cancel_requested_at"]),
        "can_retry": status in sources("replay"),
        "payload": payload_of(job["actor"], job["args"], job["kwargs"]),
        "times": [(label, at) for label, at in times.items() if at is not None],
        "took": (finished - started).total_seconds() if finished and started and finished > started else None,
        "errors": [_error(entry) for entry in reversed(job["errors"])],
        "log": job["log"],
    }


def _error(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One attempt that did not succeed, with every part there, whoever wrote it."""
    started, ended = moment(entry.get("started_at")), moment(entry.get("ended_at"))
    parts = ("attempt", "kind", "class", "message", "traceback", "worker")
    return {
        **{name: entry.get(name) for name in parts},
        "ended_at": ended,
        "took": (ended - started).total_seconds() if started and ended else None,
    }
