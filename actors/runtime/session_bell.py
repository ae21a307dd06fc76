"""Ring after the outermost commit of a caller's session.

SQLAlchemy calls ``after_commit`` also when a savepoint is released; a bell rung then would wake a worker for a
row that nobody can see yet, and that may never exist. What was sent within a savepoint goes with it when that is
rolled back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

_WAITING = "callboard_bells"


@dataclass
class _Bell:
    """What to do, and within which (nested) transaction it was asked for."""

    owner: SessionTransaction | None
    connection: Connection
    action: Callable[[], None]


def after_commit(session: Session, connection: Connection, action: Callable[[], None]) -> None:
    """Run ``action`` once, after the session's outermost transaction has committed; forget it on rollback.

    A session that joined a transaction of its connection's own does not commit that: then nothing is run, and the
    relay finds the rows.
    """
    waiting = session.info.get(_WAITING)
    if waiting is None:
        waiting = session.info[_WAITING] = []
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_soft_rollback", _rolled_back)
        event.listen(session, "after_transaction_end", _ended)
    waiting.append(_Bell(session.get_nested_transaction() or session.get_transaction(), connection, action))


def _committed(session: Session) -> None:
    if session.in_nested_transaction():
        return
    bells: list[_Bell] = session.info.get(_WAITING) or []
    session.info[_WAITING] = []
    for bell in bells:
        if not bell.connection.in_transaction():
            bell.action()


def _rolled_back(session: Session, transaction: SessionTransaction) -> None:
    session.info[_WAITING] = [b for b in session.info.get(_WAITING, ()) if not _within(b.owner, transaction)]


def _within(owner: SessionTransaction | None, transaction: SessionTransaction) -> bool:
    while owner is not None and owner is not transaction:
        owner = owner.parent
    return owner is transaction


def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info[_WAITING] = []  # the outermost is over; whatever still waits was rolled back
