"""The toy's own Alembic environment, as ``alembic init`` makes it."""

from __future__ import annotations

from alembic import context
from toy_tables import Base, make_engine

with make_engine().connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
