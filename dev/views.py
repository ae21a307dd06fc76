"""The embedded database's search path: our tables are found without their schema, and stand in nobody's way.

With the schema itself on the path, an adopter's own tables would be made in it, and its Alembic would take our
version table for its own (docs/decisions/0007). So the path names a schema of views.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from models.discovery import all_tables
from models.tables import SCHEMA


def views_schema(schema: str) -> str:
    """The schema of views beside ``schema``."""
    return f"{schema}_views"


def withdraw(url: str, schema: str = SCHEMA) -> None:
    """Drop the views: a migration could not change a table that one reads."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(views_schema(schema))))


def publish(url: str, schema: str = SCHEMA) -> None:
    """One view per table of ours; whoever may read the table reads the view."""
    views = sql.Identifier(views_schema(schema))
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(views))
        for table in all_tables().sorted_tables:
            view, source = sql.Identifier(views_schema(schema), table.name), sql.Identifier(schema, table.name)
            connection.execute(sql.SQL("CREATE OR REPLACE VIEW {} AS TABLE {}").format(view, source))
