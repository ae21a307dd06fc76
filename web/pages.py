"""HTML pages: the template environment, and the headers that every page carries."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from web.auth import SAFE_METHODS, Caller, identify, require
from web.domain import domains
from web.problems import problem_of

HERE = Path(__file__).parent
STATIC = HERE / "static"
#: Characters of pretty-printed JSON that a page shows; the whole is one click away in the API.
PRETTY_LIMIT = 20_000

#: (path, name) of the pages that every signed-in person finds in the head of each; domains add theirs.
NAVIGATION = (("/", "Board"), ("/send", "Send"), ("/docs", "API"))

#: Only our own files, nothing inline, nobody frames us, forms and fetches stay at home.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",  # pages show one tenant's data and carry its CSRF token
}


def relative(moment: datetime, now: datetime | None = None) -> str:
    """``"12 s ago"`` or ``"in 3 min"``; the same words as ``static/time.js``."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    distance = abs(seconds)
    if distance < 1:
        return "now"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if distance >= size:
            # What is over is over; what comes is better rounded than always an hour too soon.
            words = f"{int(distance / size + (0 if seconds > 0 else 0.5))} {unit}"
            break
    return f"{words} ago" if seconds > 0 else f"in {words}"


def moment(value: datetime | str | float | None) -> datetime | None:
    """An aware datetime from a column, an ISO text or seconds since the epoch; None when it is none."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if value is None:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def iso(value: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def absolute(value: datetime) -> str:
    """``2026-03-01 12:00:05 UTC``."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(value: datetime) -> str:
    """``12:00:05``, UTC."""
    return value.astimezone(UTC).strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    """``"0.42 s"``, ``"12 s"``, ``"3 min 5 s"``, ``"2 h 10 min"``."""
    if seconds < 10:
        return f"{max(seconds, 0):.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"


def pretty(value: object) -> str:
    """JSON over several lines, cut at :data:`PRETTY_LIMIT`."""
    shown = json.dumps(value, indent=2, ensure_ascii=False)
    return shown if len(shown) <= PRETTY_LIMIT else shown[:PRETTY_LIMIT] + "\n… cut; the API has the whole"


def number(value: object) -> str:
    """Thousands apart, as ``number`` in ``static/live.js``; nothing for what is no number."""
    return f"{value:,}" if isinstance(value, int | float) else ""


def short_id(job_id: object) -> str:
    """The last eight digits: a UUIDv7 begins with the time, which neighbours share."""
    return str(job_id)[-8:]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (relative, moment, iso, absolute, clock, duration, pretty, number, short_id)
    environment.filters.update({function.__name__: function for function in shown})
    return environment


_templates = _environment()


def render(
    request: Request, template: str, context: Mapping[str, Any] | None = None, *, status_code: int = 200
) -> HTMLResponse:
    """One page with the strict headers.

    Args:
      request: the page's request; templates see its URL.
      template: file in ``templates/``.
      context: what the template shows; a ``viewer`` (:class:`web.auth.Caller`) makes it a signed-in page.
      status_code: HTTP status.
    """
    values = {
        "viewer": None,
        "now": datetime.now(UTC),
        "path": request.url.path,
        "navigation": [*NAVIGATION, *(link for domain in domains() for link in domain.pages)],
        **(context or {}),
    }
    body = _templates.get_template(template).render(values)
    return HTMLResponse(body, status_code=status_code, headers=PAGE_HEADERS)


def message_page(
    request: Request, status_code: int, title: str, text: str, *, viewer: Caller | None = None
) -> HTMLResponse:
    """A page that says one thing, such as why there is nothing to see."""
    context = {"viewer": viewer, "title": title, "text": text}
    return render(request, "message.html", context, status_code=status_code)


def page(
    handler: Callable[[Request, Caller], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for signed-in people: others go to ``/sign-in``, and what the API answers as a problem is a page."""

    @wraps(handler)
    async def endpoint(request: Request) -> Response:
        caller = None
        try:
            caller = await identify(request)
            if caller is None:
                return RedirectResponse("/sign-in", 303, headers={"Cache-Control": "no-store"})
            if request.method not in SAFE_METHODS:
                await require(request)  # checks the form's CSRF token
            return await handler(request, caller)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            title = "Not found" if problem.status == 404 else HTTPStatus(problem.status).phrase
            response = message_page(request, problem.status, title, problem.detail, viewer=caller)
            response.headers.update(problem.headers)
            return response

    return endpoint


class PageFiles(StaticFiles):
    """Stylesheet, scripts and icon; asked about again each time, so that an update is whole."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, with the headers that a page's part needs."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
