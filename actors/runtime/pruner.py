"""The pruner: terminal rows past their retention, dead workers, expired sessions and keys; in small batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models import idempotency, liveness, retention, tenancy

if TYPE_CHECKING:
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
                for _ in range(BATCHES):
                    count = connection.execute(statement, {"kept": kept, "room": BATCH}).rowcount
                    deleted += count
                    if count < BATCH:
                        break
            connection.execute(liveness.forget_workers())
            tenancy.delete_expired(connection)
            for _ in range(BATCHES):
                if connection.execute(idempotency.delete_expired(), {"room": BATCH}).rowcount < BATCH:
                    break
        return deleted
