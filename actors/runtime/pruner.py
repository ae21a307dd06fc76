"""The pruner: terminal rows past their retention, dead workers, what has expired; in small batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models import idempotency, liveness, retention, tenancy
from models.discovery import all_expiries

if TYPE_CHECKING:
    from sqlalchemy import Connection, Delete

    from actors.runtime.broker import CallboardBroker

#: Rows per delete: short locks, short transactions.
BATCH = 1_000
#: Batches per pass and status, so that one pass ends.
BATCHES = 20


class Pruner:
    """One duty of maintenance; several may run at once."""

    def __init__(self, broker: CallboardBroker) -> None:
        self._broker = broker

    def run_once(self) -> int:
        """Delete what is past its time; returns how many jobs."""
        settings = self._broker.resources.settings
        deleted = 0
        with self._broker.resources.engine.connect() as connection:
            for statement, kept in (
                (retention.delete_completed(), settings.retention_completed),
                (retention.delete_failed(), settings.retention_failed),
            ):
                deleted += _in_batches(connection, statement, BATCH, kept=kept)
            connection.execute(liveness.forget_workers())
            tenancy.delete_expired(connection)
            _in_batches(connection, idempotency.delete_expired(), BATCH)
            for expiry in all_expiries():
                _in_batches(connection, expiry.statement(), expiry.room)
        return deleted


def _in_batches(connection: Connection, statement: Delete, room: int, **parameters: Any) -> int:
    """Repeat a delete while it finds as many rows as it has room for; returns how many it deleted."""
    deleted = 0
    for _ in range(BATCHES):
        count = connection.execute(statement, {**parameters, "room": room}).rowcount
        deleted += count
        if count < room:
            break
    return deleted
