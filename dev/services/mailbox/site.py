"""The mailbox's pages, and the same as JSON; for this machine only."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import uvicorn
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dev.home import ROOT
from dev.services.mailbox.letter import Letter, read
from dev.services.mailbox.store import Store

HERE = Path(__file__).parent
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "frame-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: A mail's own document: it runs nothing, fetches nothing and belongs to no origin; its links open a tab of their own.
DOCUMENT_HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": (
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; "
        "img-src data:; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
}
_DOCTYPE = re.compile(r"\s*<!doctype[^>]*>", re.IGNORECASE)

_templates = Environment(loader=FileSystemLoader(HERE / "templates"), undefined=StrictUndefined, autoescape=True)


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


_templates.filters["moment"] = _moment


def _page(name: str, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(_templates.get_template(name).render(values), status, PAGE_HEADERS)


def make_app(store: Store) -> Starlette:
    """The application that shows these mails."""

    def letters() -> list[Letter]:
        found = (store.find(mail_id) for mail_id in store.ids())
        return [read(stored) for stored in found if stored is not None]

    def letter(request: Request) -> Letter:
        stored = store.find(request.path_params["id"])
        if stored is None:
            raise HTTPException(404, "there is no such mail; the oldest are thrown away when there are many")
        return read(stored)

    def inbox(_request: Request) -> Response:
        return _page("inbox.html", letters=letters())

    def one(request: Request) -> Response:
        return _page("letter.html", letter=letter(request))

    def document(request: Request) -> Response:
        html = letter(request).html or ""
        # After the doctype, without which the browser would show it in another mode.
        start = match.end() if (match := _DOCTYPE.match(html)) else 0
        return HTMLResponse(f'{html[:start]}<base target="_blank">{html[start:]}', headers=DOCUMENT_HEADERS)

    def source(request: Request) -> Response:
        mail_id = letter(request).id
        stored = store.find(mail_id)
        assert stored is not None
        headers = {**PAGE_HEADERS, "Content-Disposition": f'attachment; filename="{mail_id}.eml"'}
        return Response(stored.source, headers=headers, media_type="message/rfc822")

    def empty(request: Request) -> Response:
        # A page of another origin may send a form here, but it cannot hide where from.
        if request.headers.get("origin", _origin(request)) != _origin(request):
            raise HTTPException(403, "only this page's own button empties the mailbox")
        store.empty()
        return RedirectResponse("/", 303)

    def api_list(request: Request) -> Response:
        wanted = request.query_params.get("to")
        found = [one.summary() for one in letters() if wanted in (None, one.to)]
        return JSONResponse({"messages": found})

    def api_one(request: Request) -> Response:
        return JSONResponse(letter(request).details())

    def api_empty(_request: Request) -> Response:
        store.empty()
        return Response(status_code=204)

    def newest(_request: Request) -> Response:
        return JSONResponse({"newest": next(iter(store.ids()), None)})

    def fault(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if request.url.path.startswith("/api/"):
            return JSONResponse({"detail": error.detail}, error.status_code)
        return _page("fault.html", error.status_code, detail=error.detail)

    routes = [
        Route("/", inbox),
        Route("/messages/{id}", one),
        Route("/messages/{id}/document", document),
        Route("/messages/{id}/source", source),
        Route("/empty", empty, methods=["POST"]),
        Route("/api/messages", api_list, methods=["GET"]),
        Route("/api/messages", api_empty, methods=["DELETE"]),
        Route("/api/messages/{id}", api_one),
        Route("/api/newest", newest),
        Mount("/board", StaticFiles(directory=ROOT / "web" / "static")),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    # A page of the Internet whose name leads to 127.0.0.1 (DNS rebinding) comes with that name.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    return Starlette(routes=routes, middleware=[hosts], exception_handlers={HTTPException: fault})


def _origin(request: Request) -> str:
    return f"{request.url.scheme}://{request.headers['host']}"


async def serve(store: Store, port: int) -> None:
    """Show the mails on this port of the loopback interface until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        make_app(store), host="127.0.0.1", port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    await uvicorn.Server(config).serve()
