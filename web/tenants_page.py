"""``/tenants``: which there are, a new one, and which of them this session shows; for operators only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from models import sessions, tenancy
from web.auth import Caller
from web.pages import operator_page, render
from web.problems import Problem
from web.services import services
from web.sign_in import signed_in


@operator_page
async def get_tenants(request: Request, caller: Caller) -> Response:
    """``GET /tenants``."""
    return await _show(request, caller)


@operator_page
async def post_tenants(request: Request, caller: Caller) -> Response:
    """``POST /tenants``: a new tenant; 303 back to the list, or the list with the reason why not."""
    name = await _field(request, "tenant")
    fault = tenancy.tenant_fault(name)
    if fault is None:
        async with services(request).database.operator() as connection:
            if (await connection.execute(tenancy.store_tenant(), {"tenant": name})).first() is None:
                fault = "exists already"
    if fault is not None:
        refused = {"name": name, "fault": f"The name {fault}." if fault != "exists already" else "It exists already."}
        return await _show(request, caller, refused, status_code=422)
    return RedirectResponse("/tenants", 303)


@operator_page
async def post_switch(request: Request, caller: Caller) -> Response:
    """``POST /tenants/switch``: show another tenant; 303 to its board.

    The session goes on under a new token, so that a page which still shows the former tenant can change nothing.
    """
    held = services(request)
    wanted = await _field(request, "tenant")
    if "\0" in wanted:
        raise _no_tenant(wanted)
    token, secrets = tenancy.new_session_secrets()
    known = [caller.session_hash.hex(), secrets["new_hash"].hex()]
    async with held.database.credentials(known, tenant_id=wanted) as connection:
        values = {**secrets, "old_hash": caller.session_hash, "to_tenant": wanted}
        moved = (await connection.execute(sessions.move_session(), values)).first()
    if moved is None:
        raise _no_tenant(wanted)
    held.keyring.forget(caller.credential)
    held.hub.drop("revoked", {caller.credential})
    return signed_in(request, token, lasts_s=(moved.expires_at - datetime.now(UTC)).total_seconds())


def _no_tenant(name: str) -> Problem:
    return Problem(404, f"There is no tenant {name[:100]!r}; nothing was changed.")


async def _show(
    request: Request, caller: Caller, refused: dict[str, Any] | None = None, *, status_code: int = 200
) -> Response:
    async with services(request).database.operator() as connection:
        rows = (await connection.execute(tenancy.all_tenants())).all()
    context = {"viewer": caller, "tenants": rows, "refused": refused, "longest": tenancy.TENANT_LENGTH}
    return render(request, "tenants.html", context, status_code=status_code)


async def _field(request: Request, name: str) -> str:
    value = (await request.form()).get(name)
    return value.strip() if isinstance(value, str) else ""
