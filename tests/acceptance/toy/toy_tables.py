"""The toy service's own tables; it knows nothing of Callboard's."""

from __future__ import annotations

import os

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What the toy's Alembic history describes."""


class Order(Base):
    """An order of the toy's customer."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    packed: Mapped[bool] = mapped_column(default=False)


def make_engine() -> Engine:
    """The toy's own engine, with SQLAlchemy's own defaults."""
    return create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1))
