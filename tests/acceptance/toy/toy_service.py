"""The toy service: ``toy_service.py (session|psycopg) ITEM (commit|rollback)``.

It stores an order and sends two jobs in one transaction, a job type's and its own actor's, prints their ids as JSON,
and then commits or changes its mind.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import psycopg
from sqlalchemy.orm import Session

from actors import send_many, sleep  # first: it installs the broker that toy_tasks finds

from toy_tables import Order, make_engine  # isort: skip
from toy_tasks import pack_order  # isort: skip


def by_session(item: str, end: str) -> None:
    """In a transaction of a SQLAlchemy session."""
    with Session(make_engine()) as session, session.begin():
        order = Order(item=item)
        session.add(order)
        session.flush()
        sent = [sleep.using(session).send(delay_ms=1), *send_many([pack_order.message(order.id)], session=session)]
        tell(order.id, sent, end)


def by_psycopg(item: str, end: str) -> None:
    """In a transaction of a bare psycopg connection."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        row = connection.execute("INSERT INTO orders (item, packed) VALUES (%s, false) RETURNING id", [item]).fetchone()
        assert row is not None
        sent = [sleep.using(connection).send(delay_ms=1), *send_many([pack_order.message(row[0])], session=connection)]
        tell(row[0], sent, end)


def tell(order_id: int, sent: Sequence[Any], end: str) -> None:
    """Print the ids; leave the transaction by an exception if it is to be rolled back."""
    print(json.dumps({"order": order_id, "jobs": [message.message_id for message in sent]}), flush=True)
    if end == "rollback":
        sys.exit(3)


if __name__ == "__main__":
    {"session": by_session, "psycopg": by_psycopg}[sys.argv[1]](*sys.argv[2:])
