"""``/keys``: the API keys of the tenant that the session shows; for operators only, never for a key itself."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from models import tenancy
from web.auth import Caller
from web.pages import operator_page, render
from web.problems import Problem
from web.services import services

#: Characters of a key's label at most.
LABEL_LENGTH: Final = 100


@operator_page
async def get_keys(request: Request, caller: Caller) -> Response:
    """``GET /keys``."""
    return await _show(request, caller)


@operator_page
async def post_keys(request: Request, caller: Caller) -> Response:
    """``POST /keys``: a new key, shown on the page that answers and never again."""
    label = (await request.form()).get("label")
    label = label.strip() if isinstance(label, str) else ""
    if len(label) > LABEL_LENGTH or not (label.isprintable() or not label):
        refused = {"label": label, "fault": f"The label must have at most {LABEL_LENGTH} printable characters."}
        return await _show(request, caller, refused=refused, status_code=422)
    key, parameters = tenancy.new_key(label or None)
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        stored = await connection.execute(tenancy.store_key(), {**parameters, "tenant": caller.tenant_id})
        if stored.first() is None:
            raise Problem(409, f"The tenant {caller.tenant_id!r} is gone; no key was made.")
    return await _show(request, caller, key=key, status_code=201)


@operator_page
async def get_revoke(request: Request, caller: Caller) -> Response:
    """``GET /keys/{key_id}/revoke``: are you sure?"""
    row = await _find(request, caller)
    if row.revoked_at is not None:
        return RedirectResponse("/keys", 303)
    return render(request, "revoke_key.html", {"viewer": caller, "key": row})


@operator_page
async def post_revoke(request: Request, caller: Caller) -> Response:
    """``POST /keys/{key_id}/revoke``: 303 back to the list; a key that was revoked before stays so."""
    row = await _find(request, caller)
    held = services(request)
    async with held.tenant_connection(caller.tenant_id) as connection:
        values = {"tenant": caller.tenant_id, "key_id": row.id}
        await connection.execute(tenancy.revoke_key_of_tenant(), values)
    # Other web processes notice within seconds.
    held.keyring.forget(f"key:{row.id}")
    held.hub.drop("revoked", {f"key:{row.id}"})
    return RedirectResponse("/keys", 303)


async def _find(request: Request, caller: Caller) -> tenancy.ApiKey:
    key_id = request.path_params["key_id"]
    for row in await _keys(request, caller):
        if row.id == key_id:
            return row
    raise Problem(404, "There is no such key of this tenant.")


async def _keys(request: Request, caller: Caller) -> list[tenancy.ApiKey]:
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        found = await connection.execute(tenancy.keys_of_tenant(), {"tenant": caller.tenant_id})
        return [tenancy.ApiKey(*row) for row in found]


async def _show(request: Request, caller: Caller, *, status_code: int = 200, **more: Any) -> Response:
    # Those that work first, newest first; then those that are over.
    rows = (await _keys(request, caller))[::-1]
    rows.sort(key=lambda row: row.revoked_at is not None)
    context = {"viewer": caller, "keys": rows, "key": None, "refused": None, "longest": LABEL_LENGTH, **more}
    return render(request, "keys.html", context, status_code=status_code)
