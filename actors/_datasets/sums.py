"""Sums and means as exact as their column."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any, Final

from actors._datasets.kinds import Column, Kind, plain

#: 28 significant digits, half to even: what Python's ``decimal`` does unless told otherwise.
_MEANS: Final = Context(prec=28)


def sum_of(column: Column) -> str:
    """SQL for the sum of a column; of doubles with Kahan's correction."""
    return f"fsum({column.sql})" if column.kind is Kind.NUMBER else f"sum({column.sql})"


def mean(total: Any, count: int, kind: Kind) -> Any:
    """Sum through count, as JSON: a float of doubles, else a text of 28 significant digits; None of nothing."""
    if total is None or count == 0:
        return None
    if kind is Kind.NUMBER:
        return plain(total / count, kind)
    return f"{_MEANS.divide(Decimal(total), Decimal(count)):f}"
