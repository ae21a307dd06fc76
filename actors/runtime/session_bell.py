"""Ring after the outermost commit of a caller's session.

SQLAlchemy calls ``after_commit`` also when a savepoint is released; a bell rung then would wake a worker for a
row that nobody can see yet, and that may never exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

_WAITING = "callboard_bells"


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Run ``action`` once, after the session's outermost transaction has committed; forget it on rollback."""
    waiting = session.info.get(_WAITING)
    if waiting is None:
        waiting = session.info[_WAITING] = []
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_transaction_end", _ended)
    waiting.append(action)


def _committed(session: Session) -> None:
    if session.in_nested_transaction():
        return
    actions = session.info.get(_WAITING) or []
    session.info[_WAITING] = []
    for action in actions:
        action()


def _ended(session: Session, transaction: SessionTransaction) -> None:
    # The outermost transaction is over; whatever still waits was rolled back.
    if transaction.parent is None and session.info.get(_WAITING):
        session.info[_WAITING] = []


__all__: list[Any] = ["after_commit"]
