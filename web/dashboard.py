"""``/dashboard/queues``: dramatiq-dashboard in a cage, for signed-in operators (ADR 0014).

Its application, its addresses and its templates are used as they are; nothing of the request reaches it but an
address and a cursor of the known form, and nothing comes back but text within our own page: no header, no cookie.
"""

from __future__ import annotations

import re
from functools import cache
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote, urlencode

from anyio import CapacityLimiter, to_thread
from jinja2 import ChoiceLoader, DictLoader
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from models.queue_counts import COUNTS
from web.auth import Caller
from web.pages import iso, message_page, number, page, pretty, relative, render
from web.problems import Problem
from web.queue_ledger import LedgerInterface, View, current_view
from web.services import services

PREFIX: Final = "/dashboard/queues"
#: Stricter than our other pages: there is no script at all.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
#: Requests that are rendered at a time, each in a thread; others wait.
THREADS: Final = 4
#: Characters of one argument that a job's page shows.
SHOWN_CHARACTERS: Final = 2_000

#: Its addresses that read. A queue's name may not end as the names of Dramatiq's own lists do.
_ADDRESS: Final = re.compile(
    r"/(?:queues/(?P<queue>[^/]{1,255}(?<!\.[DX]Q))(?:/(?P<list>standard|delayed|failed)(?:/(?P<job>[^/]{1,100}))?)?)?"
)
#: A job's id as a number, which has 128 bits.
_CURSOR: Final = re.compile(r"[1-9][0-9]{0,38}")
#: Its page's frame is ours, and its buttons, which would delete and enqueue, are nobody's.
_INSTEAD: Final = {
    "_base.html": "{% block content %}{% endblock %}",
    "_action.html": '{% macro action(label, uri, params, classes="") %}{% endmacro %}',
}


@page
async def get_queues(request: Request, caller: Caller) -> Response:
    """``GET /dashboard/queues`` and below it: queues and workers, the lists of a queue, a job of a list."""
    if caller.username is None:
        raise Problem(403, "The queues are for operators: sign in with user name and password, without an API key.")
    address = _ADDRESS.fullmatch("/" + request.path_params.get("path", "").removesuffix("/"))
    cursor = request.query_params.get("cursor")
    if address is None or (cursor is not None and _cursor(cursor) is None):
        raise Problem(404, "There is nothing here.")
    if dashboard() is None:
        text = 'These pages need dramatiq-dashboard, which is not installed: add the extra "dashboard".'
        return message_page(request, 501, "Not installed", text, viewer=caller)
    view = View(lambda: services(request).tenant_connection(caller.tenant_id), caller.tenant_id)
    await view.look()
    current_view.set(view)
    status, location, body = await to_thread.run_sync(_call, address[0], cursor, limiter=_threads())
    if status == 302:
        return RedirectResponse(location, 303, headers={"Cache-Control": "no-store"})
    if status != 200:
        raise Problem(status, "There is nothing here.")
    queue, job = address["queue"], address["job"]
    context = {
        "viewer": caller,
        "path": PREFIX,
        "queue": queue,
        "queue_href": make_uri("queues", queue) if queue else None,
        "job_id": job,
        "names": COUNTS,
        "counts": list(view.counts.values()) if queue is None else [view.counts[queue]],
        "queue_uri": lambda name: make_uri("queues", name),
        "dashboard": Markup(body),  # noqa: S704 - a template with autoescape made it
    }
    response = render(request, "queues.html", context)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def make_uri(*segments: object, params: dict[str, Any] | None = None) -> str:
    """An address of the dashboard; unlike its own maker, with every segment quoted."""
    path = "/".join((PREFIX, *(quote(str(segment), safe="") for segment in segments if segment != "")))
    return f"{path}?{urlencode(params)}" if params else path


@cache
def dashboard() -> Any:
    """dramatiq-dashboard's WSGI application on the ledger, without a broker; None when it is not installed."""
    try:
        from dramatiq_dashboard.application import DashboardApp
    except ModuleNotFoundError as missing:
        if missing.name is None or not missing.name.startswith("dramatiq_dashboard"):
            raise
        return None
    # It registers Redis scripts when it is made, and would enqueue with this: there is nothing behind it.
    no_broker = SimpleNamespace(client=SimpleNamespace(register_script=lambda script: None))
    app = DashboardApp(no_broker, PREFIX)
    app.iface = LedgerInterface()
    app.make_uri = make_uri
    app.templates.globals["make_uri"] = make_uri
    # Exact numbers, times of one clock, and never more of an argument than a page can bear.
    app.templates.filters.update(short=number, isoformat=iso, timeago=relative, pformat=_argument)
    app.templates.loader = ChoiceLoader([DictLoader(_INSTEAD), app.templates.loader])
    return app


def _call(path: str, cursor: str | None) -> tuple[int, str, str]:
    """One call of the application, with an environ made from nothing: (status, location, body)."""
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": f"cursor={cursor}" if cursor else "",
        "CONTENT_LENGTH": "0",
        "wsgi.input": BytesIO(),
    }
    answered: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        answered.update(status=int(status[:3]), headers={name.lower(): value for name, value in headers})

    body = b"".join(dashboard()(environ, start_response)).decode()
    return answered["status"], answered["headers"].get("location", PREFIX), body


def _cursor(text: str) -> int | None:
    return int(text) if _CURSOR.fullmatch(text) and int(text) < 1 << 128 else None


def _argument(value: object) -> str:
    shown = pretty(value)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[:SHOWN_CHARACTERS] + "\n… cut; the API has the whole"


@cache
def _threads() -> CapacityLimiter:
    return CapacityLimiter(THREADS)


routes: list[BaseRoute] = [Route(PREFIX, get_queues), Route(f"{PREFIX}/{{path:path}}", get_queues)]
