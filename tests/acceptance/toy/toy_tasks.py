"""The toy's own actor: plain Dramatiq, on whatever broker there is."""

from __future__ import annotations

import dramatiq
from sqlalchemy.orm import Session
from toy_tables import Order, make_engine


@dramatiq.actor
def pack_order(order_id: int) -> dict[str, object]:
    """Pack one order."""
    with Session(make_engine()) as session, session.begin():
        order = session.get_one(Order, order_id)
        order.packed = True
        return {"packed": order.item}
