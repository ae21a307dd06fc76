"""Idempotency keys: what a request was answered, kept for a day, so that its repeat is answered the same (ADR 0011).

All of it happens in the transaction that stores the request's jobs: first :func:`take_lock`, so that of several
requests with one key one goes on; then :func:`find_answer`; after the jobs :func:`keep_answer`.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Delete,
    Index,
    Interval,
    LargeBinary,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from models.tables import metadata

#: How long a repeat is recognised.
KEPT_FOR: Final = timedelta(hours=24)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),  # as the client sent it
    Column("fingerprint", LargeBinary, nullable=False),  # SHA-256 of method, path and body
    Column("answer", LargeBinary, nullable=False),  # the JSON document, compressed by zlib
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Index("ix_idempotency_keys_expires_at", "expires_at"),
)

_is_this = (idempotency_keys.c.tenant_id == bindparam("tenant", type_=Text())) & (
    idempotency_keys.c.key == bindparam("in_key", type_=Text())
)


def lock_number(schema: str, tenant_id: str, key: str) -> int:
    """The advisory lock of one tenant's key: a signed 64-bit number, a space apart from the workers' pairs."""
    digest = hashlib.sha256("\0".join(("idempotency", schema, tenant_id, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@cache
def take_lock() -> Select[Any]:
    """Whether this transaction is now the only one with the key. Parameter: ``lock`` (:func:`lock_number`).

    Postgres gives the lock back after the commit has become visible: whoever has it sees what was answered before.
    """
    return select(func.pg_try_advisory_xact_lock(cast(bindparam("lock"), BigInteger)))


@cache
def find_answer() -> Select[Any]:
    """``fingerprint`` and ``answer`` of a key that has not expired. Parameters: ``tenant``, ``in_key``."""
    alive = idempotency_keys.c.expires_at > func.now()
    return select(idempotency_keys.c.fingerprint, idempotency_keys.c.answer).where(_is_this, alive)


@cache
def keep_answer() -> ReturningInsert[Any]:
    """Keep what is answered, in place of an expired answer. Parameters: ``tenant``, ``in_key``, ``new_fingerprint``,
    ``new_answer``. No row: somebody without the lock has written a living one."""
    statement = insert(idempotency_keys).values(
        tenant_id=bindparam("tenant", type_=Text()),
        key=bindparam("in_key", type_=Text()),
        fingerprint=bindparam("new_fingerprint", type_=LargeBinary()),
        answer=bindparam("new_answer", type_=LargeBinary()),
        expires_at=func.now() + cast(KEPT_FOR, Interval),
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[idempotency_keys.c.tenant_id, idempotency_keys.c.key],
        set_={
            "fingerprint": new.fingerprint,
            "answer": new.answer,
            "created_at": func.now(),
            "expires_at": new.expires_at,
        },
        where=idempotency_keys.c.expires_at <= func.now(),
    ).returning(idempotency_keys.c.key)


@cache
def delete_expired() -> Delete:
    """Delete expired keys, ``room`` at most; those that a request takes over just now are left."""
    columns = (idempotency_keys.c.tenant_id, idempotency_keys.c.key)
    past = idempotency_keys.c.expires_at <= func.now()
    picked = (
        select(*columns)
        .where(past)
        .order_by(idempotency_keys.c.expires_at)
        .limit(bindparam("room"))
        .with_for_update(skip_locked=True)
    )
    return delete(idempotency_keys).where(tuple_(*columns).in_(picked), past)
