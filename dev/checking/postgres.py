"""The database: there, new enough, at the newest migration, reached directly and by the right kind of role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from alembic.script import Script, ScriptDirectory
from sqlalchemy.exc import ProgrammingError

from dev.checking.finding import Context, Finding, Need, error, warning
from dev.migrations import alembic_config
from models import diagnosis, rls
from models.queries import schema_revision

#: The oldest major version that we run on.
OLDEST: Final = 15
#: Seconds by which this host's clock and the database's may differ.
SKEW_S: Final = 5.0
_MIGRATE: Final = "Run ./callboard migrate (or alembic upgrade head)"


def postgres_version(context: Context) -> Iterable[Finding]:
    """Postgres 15 or newer."""
    version = _server(context).version // 10_000
    if version < OLDEST:
        yield error(
            "postgres-version",
            f"Postgres is version {version}",
            f"Callboard's statements and tables need {OLDEST} or newer",
            "Upgrade the server",
        )


def schema(context: Context) -> Iterable[Finding]:
    """Every migration of this code is in the database, and no other."""
    try:
        applied = set(context.connection.execute(schema_revision()).scalars())
    except ProgrammingError:
        applied = set()
    if not applied:
        context.missing.add(Need.TABLES)
        yield error(
            "schema-missing",
            f"The database has no tables of ours in the schema {context.settings.db_schema}",
            "No job can be kept",
            _MIGRATE,
        )
        return
    scripts = ScriptDirectory.from_config(alembic_config())
    known = {script.revision: script for script in scripts.walk_revisions()}
    if newer := sorted(applied - set(known)):
        yield error(
            "schema-ahead",
            f"The database is at {', '.join(newer)}, which this code does not know",
            "Newer code has migrated it, and this one may write what that cannot read",
            "Deploy the newer code here too, or set CALLBOARD_DB_SCHEMA to the right schema",
        )
    elif behind := sorted(set(known) - set(_with_ancestors(applied, scripts))):
        yield error(
            "schema-behind",
            f"The database lacks {len(behind)} migration(s): {', '.join(behind)}",
            "Workers and web fail at the first statement that needs them",
            _MIGRATE,
        )


def _with_ancestors(revisions: Iterable[str], scripts: ScriptDirectory) -> Iterator[str]:
    waiting = list(revisions)
    while waiting:
        script: Script | None = scripts.get_revision(waiting.pop())
        if script is not None:
            yield script.revision
            waiting += [*_names(script.down_revision), *_names(script.dependencies)]


def _names(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def role(context: Context) -> Iterable[Finding]:
    """Row-level security does not hold for these."""
    found = _server(context)
    powers = [name for name, has in (("a superuser", found.superuser), ("BYPASSRLS", found.bypasses_rls)) if has]
    if powers:
        yield warning(
            "role-too-strong",
            f"DATABASE_URL connects as {' with '.join(powers)}",
            "Row-level security, the second wall between tenants, does not hold for such a role",
            "Make a role of Callboard's own that owns its schema and nothing else",
        )


def second_wall(context: Context) -> Iterable[Finding]:
    """What row-level security needs besides the migration: the web's role."""
    wall = rls.Wall(*context.connection.execute(rls.second_wall(context.settings.db_schema)).one())
    if wall.blind:
        yield error(
            "row-security-blind",
            "Row-level security binds DATABASE_URL's own user",
            "Workers and senders see no job",
            "Connect as the owner of the tables, or as a member of it",
        )
    if wall.fault is not None:
        yield warning(
            "no-second-wall",
            f"Row-level security does not bind the web process: {wall.fault}",
            "Tenants are kept apart by the statements alone",
            "Do what it says, then run ./callboard migrate (or alembic upgrade head)",
        )


def pooler(context: Context) -> Iterable[Finding]:
    """The process that answers is not the one that we connected to."""
    told = context.connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
    if told != _server(context).backend_pid:
        yield warning(
            "pooler",
            "A connection pooler stands between us and Postgres",
            "A worker's proof of life is a session lock, which a pooler in transaction mode hands to strangers",
            "Give workers a DATABASE_URL that leads to Postgres itself; web processes may use the pooler",
        )


def clock(context: Context) -> Iterable[Finding]:
    """Due times are judged by the database's clock."""
    before = datetime.now(UTC)
    there = _server(context).now
    skew = (there - before).total_seconds()
    if abs(skew) > SKEW_S:
        yield warning(
            "clock-skew",
            f"The database's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this host's",
            "What is due is judged by the database, so a run_at computed here comes early or late",
            "Let both hosts set their clocks by NTP",
        )


def _server(context: Context) -> Any:
    return context.connection.execute(diagnosis.server()).one()
