"""Alembic's environment: our own schema and version table inside whatever database DATABASE_URL names."""

from __future__ import annotations

import logging

from alembic import context
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, create_engine, inspect, pool, text
from sqlalchemy.exc import IntegrityError

from models.discovery import all_tables
from models.engine import connect_args, sqlalchemy_url
from models.rls import build_wall
from models.settings import get_settings
from models.tables import SCHEMA

log = logging.getLogger("callboard.migrations")


def make_schema(connection: Connection, schema: str) -> None:
    """Create our schema unless it is there.

    IF NOT EXISTS alone asks for the right to create schemas also where there is nothing to create, and fails when
    another migration does it just now.
    """
    if inspect(connection).has_schema(schema):
        connection.rollback()
        return
    try:
        connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
        connection.commit()
    except IntegrityError:
        connection.rollback()


def is_upgrade(configured: MigrationContext) -> bool:
    """Whether this is ``alembic upgrade``, not one of the commands that only look."""
    return getattr(configured.opts.get("fn"), "__name__", "") == "upgrade"


def mean_every_head(configured: MigrationContext) -> None:
    """Let ``upgrade head`` mean the newest of every branch.

    Domains have migration branches of their own (docs/decisions/0008), and ``alembic upgrade head`` is what people
    and their scripts say; Alembic itself refuses it as soon as there are two branches.
    """
    if is_upgrade(configured) and configured.opts.get("destination_rev") == "head":
        configured._migrations_fn = lambda revision, _: context.script._upgrade_revs("heads", revision)


def tables_in(schema: str) -> MetaData:
    """Our tables as they should be in ``schema``."""
    ours = all_tables()
    moved = MetaData(schema=schema, naming_convention=ours.naming_convention)
    for table in ours.sorted_tables:
        table.to_metadata(moved, schema=schema)
    return moved


def run(connection: Connection, schema: str) -> None:
    """Migrate ``schema``, creating it first; one transaction for all steps."""
    make_schema(connection, schema)
    # So that a migration may say ``callboard.jobs`` and mean the configured schema.
    connection = connection.execution_options(schema_translate_map={SCHEMA: schema})
    context.configure(
        connection=connection,
        target_metadata=tables_in(schema),
        include_schemas=True,
        # The adopter's tables are none of our business.
        include_name=lambda name, kind, _parents: name == schema if kind == "schema" else True,
        version_table_schema=schema,
        compare_server_default=False,
        transaction_per_migration=False,
    )
    mean_every_head(context.get_context())
    with context.begin_transaction():
        # Two migrations at once wait for each other instead of colliding.
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"callboard-migrate-{schema}"}
        )
        context.run_migrations()
        if is_upgrade(context.get_context()) and (fault := build_wall(connection, schema, all_tables())):
            log.warning("the web has no second wall between tenants: %s", fault)


settings = get_settings()
engine = create_engine(
    sqlalchemy_url(settings),
    poolclass=pool.NullPool,
    connect_args=connect_args(
        settings,
        lock_timeout="10000",
        idle_in_transaction_session_timeout="0",
        # Were our schema the default one, reflection would report its tables as belonging to none.
        search_path="public",
    ),
)
if context.is_offline_mode():
    raise SystemExit("Callboard migrates online only: run 'alembic upgrade head' with DATABASE_URL set")
with engine.connect() as opened:
    run(opened, settings.db_schema)
engine.dispose()
