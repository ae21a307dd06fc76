"""Rows as plain mappings by column name."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult

Row = dict[str, Any]


def all_rows(result: CursorResult[Any]) -> list[Row]:
    """Every row of a result; none for a statement that returns no rows."""
    return [dict(zip(result.keys(), row, strict=True)) for row in result] if result.returns_rows else []


def one_row(result: CursorResult[Any]) -> Row | None:
    """The only row, or None."""
    rows = all_rows(result)
    return rows[0] if rows else None
