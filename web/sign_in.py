"""Signing in and out of the board: a one-time link, or user name and password; then a session cookie."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from models import tenancy
from models.passwords import password_matches
from web.auth import COOKIE, identify, require
from web.pages import render
from web.problems import Problem
from web.services import services

#: Wrong passwords per client address within :data:`WINDOW_S`, after which it waits.
TRIES: Final = 10
WINDOW_S: Final = 60.0
#: Password checks at a time; each takes 32 MiB.
_checking = asyncio.Semaphore(2)
_failures: OrderedDict[str, deque[float]] = OrderedDict()
#: Client addresses remembered at most.
_REMEMBERED: Final = 1_000


async def get_sign_in(request: Request) -> Response:
    """``GET /sign-in``: the form; with ``?token=`` the one-time link, which signs in and goes to the board."""
    token = request.query_params.get("token")
    if token is None:
        return render(request, "sign_in.html", {"error": None})
    if request.method != "GET" or "prefetch" in request.headers.get("sec-purpose", ""):
        # Looking ahead must not use the link up.
        return Response(status_code=425, headers={"Cache-Control": "no-store"})
    session, parameters = tenancy.new_session_secrets()
    async with services(request).engine.connect() as connection:
        used = await connection.execute(tenancy.redeem_link(), {"link_hash": tenancy.digest(token), **parameters})
        if used.first() is not None:
            return _signed_in(request, session)
    if await identify(request) is not None:  # the second click of somebody who is in already
        return RedirectResponse("/", 303)
    error = "This sign-in link was used before or has expired. Sign in with user name and password, or ask for another."
    return render(request, "sign_in.html", {"error": error}, status_code=403)


async def post_sign_in(request: Request) -> Response:
    """``POST /sign-in``: user name and password; 303 to the board, or the form again."""
    _refuse_other_sites(request)
    form = await request.form()
    username, password = form.get("username"), form.get("password")
    if not isinstance(username, str) or not isinstance(password, str) or not username or "\0" in username:
        return render(request, "sign_in.html", {"error": "User name and password are needed."}, status_code=422)
    client = request.client.host if request.client else ""
    if _must_wait(client):
        response = render(request, "sign_in.html", {"error": "Too many tries. Wait a minute."}, status_code=429)
        response.headers["Retry-After"] = str(int(WINDOW_S))
        return response
    engine = services(request).engine
    async with engine.connect() as connection:
        row = (await connection.execute(tenancy.find_operator(), {"username": username})).first()
    async with _checking:
        right = await asyncio.to_thread(password_matches, password, row.password_hash if row else None)
    if row is None or not right:
        _failed(client)
        return render(request, "sign_in.html", {"error": "User name or password is wrong."}, status_code=403)
    session, parameters = tenancy.new_session_secrets()
    parameters |= {"operator": row.id, "tenant": tenancy.DEFAULT_TENANT}
    async with engine.connect() as connection:
        await connection.execute(tenancy.open_session(), parameters)
    return _signed_in(request, session)


async def post_sign_out(request: Request) -> Response:
    """``POST /sign-out``: end the session, here and in the database."""
    caller = await identify(request)
    if caller is not None:
        await require(request)
        held = services(request)
        digest = bytes.fromhex(caller.credential.removeprefix("session:")) if caller.username else None
        if digest is not None:
            async with held.engine.connect() as connection:
                await connection.execute(tenancy.close_session(), {"token_hash": digest})
            held.keyring.forget(caller.credential)
            held.hub.drop("revoked", {caller.credential})
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax", secure=_is_https(request))
    return response


def _signed_in(request: Request, session: str) -> Response:
    response = RedirectResponse("/", 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    response.set_cookie(
        COOKIE,
        session,
        max_age=int(tenancy.SESSION_LASTS.total_seconds()),
        path="/",
        httponly=True,
        samesite="lax",
        secure=_is_https(request),
    )
    return response


def _is_https(request: Request) -> bool:
    return request.url.scheme == "https"


def _refuse_other_sites(request: Request) -> None:
    """Somebody else's page must not sign its visitor in here (login CSRF)."""
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Problem(403, "Sign in on this site's own page.", slug="other-site")


def _must_wait(client: str) -> bool:
    tries = _failures.get(client, deque())
    while tries and tries[0] < time.monotonic() - WINDOW_S:
        tries.popleft()
    return len(tries) >= TRIES


def _failed(client: str) -> None:
    _failures.setdefault(client, deque(maxlen=TRIES)).append(time.monotonic())
    _failures.move_to_end(client)
    if len(_failures) > _REMEMBERED:
        _failures.popitem(last=False)
