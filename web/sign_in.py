"""Signing in and out of the board: a one-time link, or user name and password; then a session cookie."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from models import sessions, tenancy, throttle
from models.passwords import password_matches
from web.auth import COOKIE, identify, refuse_other_sites, require
from web.pages import render
from web.services import services

#: Password checks at a time; each takes 32 MiB.
_checking = asyncio.Semaphore(2)
#: Set to end all sessions of the operator, wherever they are.
EVERYWHERE_FIELD: Final = "everywhere"


async def get_sign_in(request: Request) -> Response:
    """``GET /sign-in``: the form; with ``?token=`` the one-time link, which signs in and goes to the board."""
    token = request.query_params.get("token")
    if token is None:
        return render(request, "sign_in.html", {"error": None})
    if request.method != "GET" or "prefetch" in request.headers.get("sec-purpose", ""):
        # Looking ahead must not use the link up.
        return Response(status_code=425, headers={"Cache-Control": "no-store"})
    link = tenancy.digest(token)
    if (session := await _open_session(request, tenancy.redeem_link(), {"link_hash": link}, link.hex())) is not None:
        return signed_in(request, session)
    if await identify(request) is not None:  # the second click of somebody who is in already
        return RedirectResponse("/", 303)
    error = "This sign-in link was used before or has expired. Sign in with user name and password, or ask for another."
    return render(request, "sign_in.html", {"error": error}, status_code=403)


async def post_sign_in(request: Request) -> Response:
    """``POST /sign-in``: user name and password; 303 to the board, or the form again."""
    refuse_other_sites(request)
    form = await request.form()
    username, password = form.get("username"), form.get("password")
    if not isinstance(username, str) or not isinstance(password, str) or not username or "\0" in username:
        return render(request, "sign_in.html", {"error": "User name and password are needed."}, status_code=422)
    database = services(request).database
    name = throttle.key_of_name(username)
    address = throttle.key_of_address(request.client.host if request.client else "")
    async with database.nobody() as connection:
        tries = (await connection.execute(throttle.count_tries(), {"try_key": sorted((name, address))})).all()
        row = (await connection.execute(tenancy.find_operator(), {"username": username})).first()
    allowed = {name: throttle.TRIES_PER_NAME, address: throttle.TRIES_PER_ADDRESS}
    if waits := [tried.wait_s for tried in tries if tried.tries > allowed[tried.key]]:
        return _must_wait(request, max(waits))
    async with _checking:
        right = await asyncio.to_thread(password_matches, password, row.password_hash if row else None)
    if row is None or not right:
        return render(request, "sign_in.html", {"error": "User name or password is wrong."}, status_code=403)
    async with database.nobody() as connection:
        await connection.execute(throttle.forget_tries(), {"forgotten": name})
        await connection.execute(throttle.take_back_try(), {"forgiven": address})
    asked = {"operator": row.id, "tenant": tenancy.DEFAULT_TENANT}
    session = await _open_session(request, tenancy.open_session(), asked)
    if session is None:
        error = f"There is no tenant {tenancy.DEFAULT_TENANT!r} to show: ask for a sign-in link to another."
        return render(request, "sign_in.html", {"error": error}, status_code=409)
    return signed_in(request, session)


async def post_sign_out(request: Request) -> Response:
    """``POST /sign-out``: end the session, here and in the database; with ``everywhere``, all of this operator's."""
    caller = await identify(request)
    if caller is not None and caller.operator_id is not None:
        await require(request)
        held = services(request)
        digest = caller.session_hash
        ended = {caller.credential}
        async with held.database.credentials([digest.hex(), str(caller.operator_id)]) as connection:
            if (await request.form()).get(EVERYWHERE_FIELD):
                rows = await connection.execute(sessions.close_sessions(), {"operator": caller.operator_id})
                ended |= {f"session:{row.token_hash.hex()}" for row in rows}
            else:
                await connection.execute(tenancy.close_session(), {"token_hash": digest})
        for credential in ended:
            held.keyring.forget(credential)
        held.hub.drop("revoked", ended)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax", secure=_is_https(request))
    return response


async def _open_session(request: Request, statement: Any, parameters: dict[str, Any], *known: str) -> str | None:
    """A new session's token, or None when the statement opened none; the one that the browser had ends."""
    held = services(request)
    token, secrets = tenancy.new_session_secrets()
    former = request.cookies.get(COOKIE)
    credentials = [*known, secrets["new_hash"].hex(), *([tenancy.digest(former).hex()] if former else [])]
    async with held.database.credentials(credentials, tenant_id=parameters.get("tenant", "")) as connection:
        if (await connection.execute(statement, {**parameters, **secrets})).first() is None:
            return None
        if former:
            await connection.execute(tenancy.close_session(), {"token_hash": tenancy.digest(former)})
    if former:
        credential = f"session:{tenancy.digest(former).hex()}"
        held.keyring.forget(credential)
        held.hub.drop("revoked", {credential})
    return token


def signed_in(request: Request, session: str, *, to: str = "/", lasts_s: float | None = None) -> Response:
    """303 with the session's cookie; a moved session keeps what is left of its time."""
    response = RedirectResponse(to, 303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    response.set_cookie(
        COOKIE,
        session,
        max_age=int(tenancy.SESSION_LASTS.total_seconds() if lasts_s is None else lasts_s),
        path="/",
        httponly=True,
        samesite="lax",
        secure=_is_https(request),
    )
    return response


def _must_wait(request: Request, wait_s: float) -> Response:
    minutes = max(1, math.ceil(wait_s / 60))
    error = f"Too many tries. Wait {minutes} min, or use a sign-in link (./callboard operators link NAME)."
    response = render(request, "sign_in.html", {"error": error}, status_code=429)
    response.headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    return response


def _is_https(request: Request) -> bool:
    return request.url.scheme == "https"
