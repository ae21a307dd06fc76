"""Sending a job by hand: a form per job type, made from its schema, judged by what judges ``POST /jobs``."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from actors.runtime.errors import DataRefused, OptionRefused, PayloadRefused, UniqueKeyBusy
from actors.runtime.job_type import JobType, job_types
from web.auth import CSRF_FIELD, Caller
from web.forms import Form, form_for
from web.job_page import path_of
from web.job_type_list import description
from web.jobs import send_job
from web.pages import page, render
from web.problems import Problem


@page
async def get_send(request: Request, caller: Caller) -> Response:
    """``GET /send?type=``: an empty form, of the first type unless another is named."""
    known = job_types()
    name = request.query_params.get("type", next(iter(known), ""))
    if known and name not in known:
        raise Problem(404, f"There is no job type {name[:100]!r}.", slug="no-such-type")
    return _show(request, caller, _form(known[name]) if known else None)


@page
async def post_send(request: Request, caller: Caller) -> Response:
    """``POST /send``: 303 to the new job, or the form with each fault beside its field."""
    posted = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    posted.pop(CSRF_FIELD, None)
    name = posted.get("type", "")
    kind = job_types().get(name)
    if kind is None:
        raise Problem(404, f"There is no job type {name[:100]!r}; nothing was stored.", slug="no-such-type")
    form = _form(kind)
    payload, options = form.read(posted)
    if form.faulty:
        _judge(kind, form, payload)
    else:
        try:
            row, duplicate = await send_job(request, caller, {"type": name, "payload": payload, "options": options})
            return RedirectResponse(path_of(row["id"]) + ("?duplicate" if duplicate else ""), 303)
        except PayloadRefused as refused:
            for pointer, message in refused.faults:
                form.refuse(pointer, message)
        except DataRefused as refused:
            form.refuse(_wire_pointer(kind, refused.pointer), refused.reason)
        except OptionRefused as refused:
            form.refuse_option(refused.option, refused.reason)
        except UniqueKeyBusy as busy:
            form.refuse_option("unique_key", str(busy))
        except Problem as problem:
            if not problem.faults:
                raise
            for fault in problem.faults:
                if fault.where.startswith("/options/"):
                    form.refuse_option(fault.where.removeprefix("/options/"), fault.detail)
                else:
                    form.refuse(fault.where.removeprefix("/payload"), fault.detail)
    return _show(request, caller, form, status_code=422)


def _form(kind: JobType) -> Form:
    return form_for(kind.name, kind.schema(), description(kind).replace("``", ""))


def _judge(kind: JobType, form: Form, payload: dict[str, Any]) -> None:
    """Note what the model says of the fields that could be read, so that all faults are shown in one go."""
    unread = {field.key for field in form.payload if field.faults}
    try:
        kind.kwargs_of(payload, wire=True)
    except PayloadRefused as refused:
        for pointer, message in refused.faults:
            if pointer.removeprefix("/").partition("/")[0] not in unread:
                form.refuse(pointer, message)
    except DataRefused as refused:
        form.refuse(_wire_pointer(kind, refused.pointer), refused.reason)


def _wire_pointer(kind: JobType, pointer: str) -> str:
    """The same place in the payload as the sender wrote it: the ledger names Python's keyword arguments."""
    if not pointer.startswith("/kwargs/"):
        return pointer
    name, slash, rest = pointer.removeprefix("/kwargs/").partition("/")
    field = kind.model.model_fields.get(name)
    return f"/{(field.alias if field else None) or name}{slash}{rest}"


def _show(request: Request, caller: Caller, form: Form | None, *, status_code: int = 200) -> Response:
    context = {"viewer": caller, "job_types": list(job_types()), "form": form}
    return render(request, "send.html", context, status_code=status_code)
