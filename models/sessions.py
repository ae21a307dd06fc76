"""What an operator does with sessions beyond opening one: change the tenant, end them all."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import LargeBinary, Text, Update, Uuid, bindparam, delete, select, update
from sqlalchemy.sql.dml import ReturningDelete

from models.tables import tenants, web_sessions


@cache
def move_session() -> Update:
    """The session goes on for another tenant, under a new token: a page that still shows the former tenant can
    change nothing any more. No row: the session has ended, or there is no such tenant.

    Parameters: ``old_hash``, ``new_hash``, ``new_csrf``, ``to_tenant``.
    """
    wanted = select(tenants.c.id).where(tenants.c.id == bindparam("to_tenant", type_=Text())).scalar_subquery()
    return (
        update(web_sessions)
        .values(
            token_hash=bindparam("new_hash", type_=LargeBinary()),
            csrf_token=bindparam("new_csrf", type_=Text()),
            tenant_id=wanted,
        )
        .where(web_sessions.c.token_hash == bindparam("old_hash", type_=LargeBinary()), wanted.is_not(None))
        .returning(web_sessions.c.tenant_id, web_sessions.c.expires_at)
    )


@cache
def close_sessions() -> ReturningDelete[Any]:
    """Sign an operator out everywhere; rows (token_hash). Parameter: ``operator``."""
    return (
        delete(web_sessions)
        .where(web_sessions.c.operator_id == bindparam("operator", type_=Uuid()))
        .returning(web_sessions.c.token_hash)
    )
