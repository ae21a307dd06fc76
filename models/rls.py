"""The second wall: row-level security for the web's role (docs/decisions/0001 and 0013).

Every table that carries a ``tenant_id`` has a policy that compares it with settings of the transaction: whose rows
it may see is said once, before its first statement. The tables' owner (workers, senders, maintenance) and its
members are not subject to policies; the web takes a role that is, and that owns nothing.

``alembic upgrade`` ends with :func:`build_wall`: a new table cannot be forgotten, and a role that an administrator made
later is found by the next upgrade.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, MetaData, Select, Text, TextClause, bindparam, func, select, text, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import ProgrammingError

#: Settings of a transaction; not set: nothing is seen.
TENANT: Final = "callboard.tenant"  # whose rows
#: An array of text: ids of keys and operators, hashes (hexadecimal) of sessions and links.
CREDENTIALS: Final = "callboard.credentials"
OPERATOR: Final = "callboard.operator"  # ``yes``: a signed-in operator, who may see and make tenants
#: The name of the one policy that each table has.
POLICY: Final = "callboard_web"


# One tenant, not a list: beside the statement's own ``tenant_id = $1`` Postgres makes of it a condition that is
# checked once per scan ($1 = the setting), and every plan is what it would be without the wall.
_OF_TENANT = f"tenant_id = current_setting('{TENANT}', true)"
# A setting that was local to an earlier transaction of the connection is empty, not null.
_KNOWN = f"ANY ((SELECT NULLIF(current_setting('{CREDENTIALS}', true), '')::text[])::text[])"
_OF_SESSION = f"encode(token_hash, 'hex') = {_KNOWN} OR operator_id::text = {_KNOWN}"
#: Tables whose rows are not just their tenant's: who asks knows the secret's hash, or is the operator.
POLICIES: Final = {
    "tenants": f"id = current_setting('{TENANT}', true) OR current_setting('{OPERATOR}', true) = 'yes'",
    "api_keys": f"{_OF_TENANT} OR id = {_KNOWN}",
    "web_sessions": _OF_SESSION,
    "sign_in_links": _OF_SESSION,
}
#: What the web may do with tables, where it is neither everything (tables with a policy) nor reading (others). A
#: domain's table says so itself: ``Table(..., info={"web": "SELECT, UPDATE"})``.
PRIVILEGES: Final = {
    "jobs": "SELECT, UPDATE",
    "tenants": "SELECT, INSERT",
    "sign_in_attempts": "SELECT, INSERT, UPDATE, DELETE",
}


class Wall(NamedTuple):
    """What :func:`second_wall` found.

    Attributes:
      role: the role that the web takes; null: there are no tables of ours.
      exists: whether there is such a role.
      takeable: whether this connection's user may ``SET ROLE`` to it.
      exempt: whether policies would not bind it: superuser, BYPASSRLS, or owner of a table.
      granted: whether it may read the tables.
      open_tables: tables with a ``tenant_id`` and without a policy.
      blind: whether policies bind this connection's own user, so that workers and senders would see no row.
    """

    role: str | None
    exists: bool
    takeable: bool
    exempt: bool
    granted: bool
    open_tables: list[str]
    blind: bool

    @property
    def fault(self) -> str | None:
        """Why the wall does not stand, and what to do; None when it stands."""
        if self.role is None:
            return "there are no tables of ours yet: run ./callboard migrate (alembic upgrade head)"
        if self.open_tables:
            return f"no policy on {', '.join(self.open_tables)}: run ./callboard migrate (alembic upgrade head)"
        if not self.exists or not self.takeable:
            return f"an administrator must run: {'; '.join(role_statements(self.role))}; then migrate again"
        if self.exempt:
            return f'role "{self.role}" must not be superuser, have BYPASSRLS or own our tables'
        if not self.granted:
            return f'role "{self.role}" lacks its grants: run ./callboard migrate (alembic upgrade head)'
        return None


def web_role(schema: str, owner: str) -> str:
    """The web's role: roles belong to the whole cluster, so its name is made of the schema and the tables' owner.

    Two installations of one owner share it and win nothing by that: their owner may read both.
    """
    name = f"{schema}_web_{owner}"
    if len(name.encode()) <= 63:  # what Postgres keeps of a name
        return name
    return f"{schema[:40]}_web_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def role_statements(role: str, member: str = "CURRENT_USER") -> list[str]:
    """What makes the role, for whoever may create roles; ``member`` is the tables' owner."""
    return [f"CREATE ROLE {quoted(role)} NOLOGIN NOINHERIT", f"GRANT {quoted(role)} TO {member}"]


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"{}"'.format(name.replace('"', '""'))


def array_text(values: Iterable[str]) -> str:
    """A list as the text of a Postgres array."""
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{{{}}}".format(",".join(f'"{value}"' for value in escaped))


@cache
def see_tenant() -> Select[Any]:
    """From here on the transaction sees another tenant's rows. Parameter: ``tenant``."""
    return select(func.set_config(TENANT, bindparam("tenant", type_=Text()), true()))


# -- what stands ------------------------------------------------------------------------------------------------

_SECOND_WALL: Final = """
WITH ours AS (
    SELECT c.oid, c.relname, c.relowner, c.relrowsecurity,
           EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS is_tenants,
           EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) AS has_policy
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relkind IN ('r', 'p')
), owner AS (
    SELECT relowner AS oid, oid AS jobs, :schema || '_web_' || pg_get_userbyid(relowner) AS long
    FROM ours WHERE relname = 'jobs'
), named AS (
    SELECT *, CASE WHEN octet_length(long) <= 63 THEN long
                   ELSE left(:schema, 40) || '_web_' || left(encode(sha256(convert_to(long, 'UTF8')), 'hex'), 16)
              END AS role
    FROM owner
)
SELECT named.role,
       r.oid IS NOT NULL AS exists,
       r.oid IS NOT NULL AND pg_has_role(
           r.oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END
       ) AS takeable,
       coalesce(r.rolsuper OR r.rolbypassrls OR pg_has_role(r.oid, named.oid, 'USAGE')
                OR EXISTS (SELECT FROM ours WHERE relowner = r.oid), false) AS exempt,
       coalesce(has_schema_privilege(r.oid, :schema, 'USAGE')
                AND has_table_privilege(r.oid, named.jobs, 'SELECT'), false) AS granted,
       ARRAY(SELECT relname::text FROM ours WHERE is_tenants AND NOT (relrowsecurity AND has_policy) ORDER BY 1)
           AS open_tables,
       coalesce(row_security_active(named.jobs), false) AS blind
FROM (SELECT) AS one LEFT JOIN named ON true LEFT JOIN pg_roles r ON r.rolname = named.role
"""


def second_wall(schema: str) -> TextClause:
    """One row for :class:`Wall`, whatever there is: ``Wall(*row)``; asks as the connection's own user."""
    return text(_SECOND_WALL).bindparams(bindparam("schema", schema, type_=Text()))


# -- building it ------------------------------------------------------------------------------------------------


def build_wall(connection: Connection, schema: str, tables: MetaData) -> str | None:
    """Give every table its policy and the web's role its grants; what is there already is left alone.

    Args:
      connection: the tables' owner's, in a transaction.
      tables: what :func:`models.discovery.all_tables` knows: domains say there what the web may do.

    Returns: why the wall does not stand all the same (the role may not be made by us); None when it stands.
    """
    place = quoted(schema)
    for name, is_open in connection.execute(_tables_to_protect(schema)):
        condition = POLICIES.get(name, _OF_TENANT)
        if is_open:
            connection.execute(text(f"ALTER TABLE {place}.{quoted(name)} ENABLE ROW LEVEL SECURITY"))
            connection.execute(text(f"CREATE POLICY {POLICY} ON {place}.{quoted(name)} USING ({condition})"))
    wall = Wall(*connection.execute(second_wall(schema)).one())
    if wall.role is None:
        return wall.fault
    if not wall.exists:
        _make_role(connection, wall.role)
        wall = Wall(*connection.execute(second_wall(schema)).one())
    if wall.exists:
        assert wall.role is not None
        role = quoted(wall.role)
        connection.execute(text(f"GRANT USAGE ON SCHEMA {place} TO {role}"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO {role}"))
        connection.execute(text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {place} TO {role}"))
        declared = {table.name: table.info.get("web") for table in tables.sorted_tables}
        protected = {name for name, _ in connection.execute(_tables_to_protect(schema))}
        present = protected | set(connection.execute(_tables(schema)).scalars())
        for name in sorted(present):
            everything = "SELECT, INSERT, UPDATE, DELETE" if name in protected else "SELECT"
            privileges = PRIVILEGES.get(name) or declared.get(name) or everything
            connection.execute(text(f"GRANT {privileges} ON {place}.{quoted(name)} TO {role}"))
        wall = Wall(*connection.execute(second_wall(schema)).one())
    return wall.fault


def _make_role(connection: Connection, role: str) -> None:
    """Where our user may create roles; elsewhere an administrator makes it (:attr:`Wall.fault` says how)."""
    try:
        with connection.begin_nested():
            for statement in role_statements(role):
                connection.execute(text(statement))
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) not in ("42501", "42710"):  # not allowed; somebody was quicker
            raise


def _tables(schema: str) -> TextClause:
    return text(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = :schema AND c.relkind IN ('r', 'p') ORDER BY 1"
    ).bindparams(schema=schema)


def _tables_to_protect(schema: str) -> TextClause:
    """Rows (name, whether its policy is missing) of the tables that have a policy."""
    return text(
        "SELECT c.relname, NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = :policy)"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = :schema AND c.relkind IN ('r', 'p') AND (c.relname = ANY (:named) OR EXISTS ("
        "   SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped))"
        " ORDER BY 1"
    ).bindparams(bindparam("named", list(POLICIES), type_=ARRAY(Text)), schema=schema, policy=POLICY)
