"""Who may ask for what: tenants, their API keys, operators, one-time sign-in links and browser sessions.

Secrets are 256-bit random values shown once; the tables keep their SHA-256 (a slow hash protects guessable
secrets, and these are not). Passwords are scrypt. Statements are separate from the functions that execute them
on a synchronous connection, so that the web process can execute them on its asynchronous engine.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    Connection,
    Delete,
    Interval,
    LargeBinary,
    Select,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.sql.dml import ReturningInsert

from models.errors import CallboardError, UnknownTenant
from models.passwords import hash_password, password_matches
from models.tables import api_keys, operators, sign_in_links, tenants, web_sessions
from models.throttle import delete_old_tries

#: The tenant of a bare ``.send()``; exists after the first migration.
DEFAULT_TENANT: Final = "default"
#: Characters of a tenant's name at most.
TENANT_LENGTH: Final = 100
#: How long a sign-in link works: somebody who reads the banner in the evening may still click it next morning.
SIGN_IN_LINK_LASTS: Final = timedelta(hours=24)
#: How long a browser stays signed in.
SESSION_LASTS: Final = timedelta(hours=12)
#: ``last_used_at`` of a key is written at most this often.
KEY_USE_NOTED_EVERY: Final = timedelta(minutes=1)


class UnknownOperator(CallboardError):
    """There is no such operator."""


class ApiKey(NamedTuple):
    """What may be told about a key after it was made."""

    id: str
    tenant_id: str
    label: str | None
    created_at: object
    last_used_at: object
    revoked_at: object


def digest(secret: str) -> bytes:
    """What is stored of a random secret."""
    return hashlib.sha256(secret.encode()).digest()


def split_key(key: str) -> tuple[str, str] | None:
    """``cb_<id>_<secret>`` → (id, secret), or None when it is not one."""
    prefix, _, rest = key.partition("_")
    key_id, sep, secret = rest.partition("_")
    return (key_id, secret) if prefix == "cb" and sep and key_id and secret and key.isascii() else None


# -- statements ------------------------------------------------------------------------------------------------


@cache
def find_key() -> Select[Any]:
    """The key's ``tenant_id`` and ``secret_hash`` unless revoked. Parameter: ``key_id``."""
    return select(api_keys.c.tenant_id, api_keys.c.secret_hash).where(
        api_keys.c.id == bindparam("key_id", type_=Text()), api_keys.c.revoked_at.is_(None)
    )


@cache
def note_key_use() -> Update:
    """Write ``last_used_at`` unless it is fresh. Parameter: ``key_id``."""
    stale = api_keys.c.last_used_at < func.now() - cast(KEY_USE_NOTED_EVERY, Interval)
    return (
        update(api_keys)
        .values(last_used_at=func.now())
        .where(api_keys.c.id == bindparam("key_id", type_=Text()), or_(api_keys.c.last_used_at.is_(None), stale))
    )


@cache
def valid_keys() -> Select[Any]:
    """Those of these keys that are not revoked. Parameter: ``key_ids``."""
    return select(api_keys.c.id).where(
        api_keys.c.id == func.any(bindparam("key_ids", type_=ARRAY(Text))), api_keys.c.revoked_at.is_(None)
    )


@cache
def _all_keys() -> Select[Any]:
    return select(*(api_keys.c[name] for name in ApiKey._fields)).order_by(api_keys.c.created_at, api_keys.c.id)


@cache
def keys_of_tenant() -> Select[Any]:
    """Rows for :class:`ApiKey`, oldest first, revoked ones too. Parameter: ``tenant``."""
    return _all_keys().where(api_keys.c.tenant_id == bindparam("tenant", type_=Text()))


@cache
def store_key() -> ReturningInsert[Any]:
    """A new key; no row: there is no such tenant. Parameters: ``tenant`` and those of :func:`new_key`."""
    source = select(
        bindparam("new_id", type_=Text()),
        tenants.c.id,
        bindparam("new_hash", type_=LargeBinary()),
        bindparam("new_label", type_=Text()),
    ).where(tenants.c.id == bindparam("tenant", type_=Text()))
    statement = insert(api_keys).from_select(["id", "tenant_id", "secret_hash", "label"], source)
    return statement.returning(api_keys.c.id)


@cache
def revoke_key_of_tenant() -> Update:
    """End a tenant's key for good; no row: no such key, or revoked before. Parameters: ``tenant``, ``key_id``."""
    return (
        update(api_keys)
        .values(revoked_at=func.now())
        .where(
            api_keys.c.tenant_id == bindparam("tenant", type_=Text()),
            api_keys.c.id == bindparam("key_id", type_=Text()),
            api_keys.c.revoked_at.is_(None),
        )
        .returning(api_keys.c.id)
    )


@cache
def all_tenants() -> Select[Any]:
    """Rows (id, created_at), in order of id."""
    return select(tenants.c.id, tenants.c.created_at).order_by(tenants.c.id)


@cache
def store_tenant() -> ReturningInsert[Any]:
    """A new tenant; no row: it exists. Parameter: ``tenant``."""
    statement = insert(tenants).values(id=bindparam("tenant", type_=Text())).on_conflict_do_nothing()
    return statement.returning(tenants.c.id)


@cache
def find_operator() -> Select[Any]:
    """An operator's ``id`` and ``password_hash``. Parameter: ``username``."""
    return select(operators.c.id, operators.c.password_hash).where(
        operators.c.username == bindparam("username", type_=Text())
    )


@cache
def find_session() -> Select[Any]:
    """A living session's tenant, CSRF token and operator. Parameter: ``token_hash``."""
    return (
        select(web_sessions.c.tenant_id, web_sessions.c.csrf_token, web_sessions.c.operator_id, operators.c.username)
        .join_from(web_sessions, operators, operators.c.id == web_sessions.c.operator_id)
        .where(
            web_sessions.c.token_hash == bindparam("token_hash", type_=LargeBinary()),
            web_sessions.c.expires_at > func.now(),
        )
    )


@cache
def valid_sessions() -> Select[Any]:
    """Those of these sessions that live. Parameter: ``token_hashes``."""
    return select(web_sessions.c.token_hash).where(
        web_sessions.c.token_hash == func.any(bindparam("token_hashes", type_=ARRAY(LargeBinary))),
        web_sessions.c.expires_at > func.now(),
    )


@cache
def open_session() -> ReturningInsert[Any]:
    """A new session of an operator. Parameters: ``operator``, ``tenant``, ``new_hash``, ``new_csrf``."""
    source = select(
        bindparam("new_hash", type_=LargeBinary()),
        bindparam("operator", type_=Uuid()),
        tenants.c.id,
        bindparam("new_csrf", type_=Text()),
        func.now() + cast(SESSION_LASTS, Interval),
    ).where(tenants.c.id == bindparam("tenant", type_=Text()))
    return _into_sessions(source)


@cache
def redeem_link() -> ReturningInsert[Any]:
    """Use a link up and open the session it stands for, in one statement: two clicks never both win.

    Parameters: ``link_hash``, ``new_hash``, ``new_csrf``. No row: unknown, used or expired.
    """
    used = (
        update(sign_in_links)
        .values(used_at=func.now())
        .where(
            sign_in_links.c.token_hash == bindparam("link_hash", type_=LargeBinary()),
            sign_in_links.c.used_at.is_(None),
            sign_in_links.c.expires_at > func.now(),
        )
        .returning(sign_in_links.c.operator_id, sign_in_links.c.tenant_id)
        .cte("used")
    )
    source = select(
        bindparam("new_hash", type_=LargeBinary()),
        used.c.operator_id,
        used.c.tenant_id,
        bindparam("new_csrf", type_=Text()),
        func.now() + cast(SESSION_LASTS, Interval),
    )
    return _into_sessions(source)


def _into_sessions(source: Select[Any]) -> ReturningInsert[Any]:
    # No parameter may be named like a column: SQLAlchemy would take it for a value of the UPDATE above too.
    columns = ["token_hash", "operator_id", "tenant_id", "csrf_token", "expires_at"]
    return insert(web_sessions).from_select(columns, source).returning(web_sessions.c.tenant_id)


@cache
def close_session() -> Delete:
    """Sign out. Parameter: ``token_hash``."""
    return delete(web_sessions).where(web_sessions.c.token_hash == bindparam("token_hash", type_=LargeBinary()))


def new_key(label: str | None = None) -> tuple[str, dict[str, Any]]:
    """A key, ``cb_<id>_<secret>``, and the parameters that store it (``new_id``, ``new_hash``, ``new_label``)."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"cb_{key_id}_{secret}", {"new_id": key_id, "new_hash": digest(secret), "new_label": label}


def tenant_fault(tenant_id: str) -> str | None:
    """What is wrong with a name for a tenant, as a sentence's end; None when nothing is."""
    if not 1 <= len(tenant_id) <= TENANT_LENGTH:
        return f"must have 1 to {TENANT_LENGTH} characters"
    if not tenant_id.isprintable() or tenant_id != tenant_id.strip():
        return "must be printable, without spaces at its ends"
    return None


def new_session_secrets() -> tuple[str, dict[str, Any]]:
    """A session's token for the cookie, and the parameters that store it (``new_hash``, ``new_csrf``)."""
    token = secrets.token_urlsafe(32)
    return token, {"new_hash": digest(token), "new_csrf": secrets.token_urlsafe(24)}


# -- on a synchronous connection in autocommit: the launcher and the command line --------------------------------


def ensure_tenant(connection: Connection, tenant_id: str) -> bool:
    """Create the tenant unless it exists; returns whether it is new."""
    return connection.execute(store_tenant(), {"tenant": tenant_id}).first() is not None


def create_key(connection: Connection, tenant_id: str, label: str | None = None) -> str:
    """Make an API key and return it: ``cb_<id>_<secret>``; this is the only time that it can be seen.

    Raises:
      UnknownTenant: nothing was stored.
    """
    key, parameters = new_key(label)
    if connection.execute(store_key(), {**parameters, "tenant": tenant_id}).first() is None:
        raise UnknownTenant(f"there is no tenant {tenant_id!r}: no key was made")
    return key


def list_keys(connection: Connection, tenant_id: str | None = None) -> list[ApiKey]:
    """The keys of one tenant or of all, oldest first, revoked ones too."""
    if tenant_id is not None:
        return [ApiKey(*row) for row in connection.execute(keys_of_tenant(), {"tenant": tenant_id})]
    return [ApiKey(*row) for row in connection.execute(_all_keys())]


def revoke_key(connection: Connection, key_id: str) -> bool:
    """End a key for good (web processes notice within seconds); False: no such key, or it was revoked before.

    Args:
      key_id: the middle part, or the whole key.
    """
    parts = split_key(key_id)
    statement = (
        update(api_keys)
        .values(revoked_at=func.now())
        .where(and_(api_keys.c.id == (parts[0] if parts else key_id), api_keys.c.revoked_at.is_(None)))
        .returning(api_keys.c.id)
    )
    return connection.execute(statement).first() is not None


def set_operator(connection: Connection, username: str, password: str) -> UUID:
    """Create the operator, or give an existing one this password; returns the id.

    A password that differs from the former one ends the operator's sessions and links.
    """
    row = connection.execute(find_operator(), {"username": username}).first()
    if row is not None and password_matches(password, row.password_hash):
        same: UUID = row.id
        return same
    statement = insert(operators).values(id=func.gen_random_uuid(), username=username)
    statement = statement.values(password_hash=hash_password(password))
    statement = statement.on_conflict_do_update(
        index_elements=[operators.c.username], set_={"password_hash": statement.excluded.password_hash}
    )
    changed = statement.returning(operators.c.id).cte("changed")
    # One statement: nobody may stay signed in by a password that is over.
    ended = [
        delete(table).where(table.c.operator_id == changed.c.id).cte(f"ended_{table.name}")
        for table in (web_sessions, sign_in_links)
    ]
    found: UUID = connection.execute(select(changed.c.id).add_cte(*ended)).scalar_one()
    return found


def list_operators(connection: Connection) -> list[tuple[str, datetime]]:
    """User names and when they were made, in order of name."""
    statement = select(operators.c.username, operators.c.created_at).order_by(operators.c.username)
    return [(row.username, row.created_at) for row in connection.execute(statement)]


def delete_operator(connection: Connection, username: str) -> bool:
    """Delete the operator, with all sessions and links; False: there was none."""
    return connection.execute(delete(operators).where(operators.c.username == username)).rowcount > 0


def verify_operator(connection: Connection, username: str, password: str) -> UUID | None:
    """The operator's id when the password is right; takes as long when there is no such operator."""
    row = connection.execute(find_operator(), {"username": username}).first()
    matches = password_matches(password, row.password_hash if row else None)
    return row.id if row and matches else None


def create_sign_in_link(connection: Connection, username: str, tenant_id: str = DEFAULT_TENANT) -> str:
    """The token of a link that signs a browser in once, within :data:`SIGN_IN_LINK_LASTS`.

    Raises:
      UnknownOperator, UnknownTenant: nothing was stored.
    """
    token = secrets.token_urlsafe(32)
    source = (
        select(
            literal(digest(token), LargeBinary),
            operators.c.id,
            tenants.c.id,
            func.now() + cast(SIGN_IN_LINK_LASTS, Interval),
        )
        .select_from(operators.join(tenants, tenants.c.id == tenant_id))
        .where(operators.c.username == username)
    )
    columns = ["token_hash", "operator_id", "tenant_id", "expires_at"]
    statement = insert(sign_in_links).from_select(columns, source).returning(sign_in_links.c.tenant_id)
    if connection.execute(statement).first() is None:
        if connection.execute(select(tenants.c.id).where(tenants.c.id == tenant_id)).first() is None:
            raise UnknownTenant(f"there is no tenant {tenant_id!r}: no link was made")
        raise UnknownOperator(f"there is no operator {username!r}: no link was made")
    return token


def redeem_sign_in_link(connection: Connection, token: str) -> str | None:
    """The token of a new session, or None when the link is unknown, used or expired."""
    session, parameters = new_session_secrets()
    row = connection.execute(redeem_link(), {"link_hash": digest(token), **parameters}).first()
    return session if row else None


def delete_expired(connection: Connection) -> int:
    """Delete links and sessions that no longer work, and counts of tries that are over; returns how many."""
    gone = connection.execute(delete(web_sessions).where(web_sessions.c.expires_at <= func.now())).rowcount
    over = or_(sign_in_links.c.expires_at <= func.now(), sign_in_links.c.used_at.is_not(None))
    gone += connection.execute(delete(sign_in_links).where(over)).rowcount
    return gone + connection.execute(delete_old_tries()).rowcount
