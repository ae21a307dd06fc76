"""Conditions as SQL: columns by their place, values as parameters, numbers exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation
from typing import Any, Final, NoReturn

from actors._datasets.kinds import TEXTUAL, Column, Kind
from actors._datasets.payload import Condition
from actors.runtime.errors import PermanentError
from models.json_data import clean_text

_FALSE: Final = "false"
_OPPOSITE: Final = {"in": "=", "not in": "!="}
#: Digits that DuckDB's decimals have.
_DIGITS: Final = 38


def where(conditions: Sequence[Condition], columns: Mapping[str, Column]) -> tuple[str, list[Any]]:
    """SQL that is true for the rows for which every condition holds, and its parameters.

    Raises:
      PermanentError: a value does not fit its column.
    """
    parameters: list[Any] = []
    tests = [_test(condition, columns[condition.column], parameters) for condition in conditions]
    return " AND ".join(tests) or "true", parameters


def _test(condition: Condition, column: Column, parameters: list[Any]) -> str:
    op, value = condition.op, condition.value
    if op == "is null":
        return f"{column.sql} IS NULL"
    if op == "is not null":
        return f"{column.sql} IS NOT NULL"
    if column.kind is Kind.EMPTY:
        return _FALSE
    if op == "contains":
        if column.kind not in TEXTUAL:
            _misfit(column, value, "'contains' is for text")
        parameters.append(value)
        return f"contains({column.sql}, ?)"
    if op in ("in", "not in"):
        tests = [_compare(_OPPOSITE[op], item, column, parameters) for item in value]
        return "(" + (" OR " if op == "in" else " AND ").join(tests) + ")"
    return _compare(op, value, column, parameters)


def _compare(op: str, value: Any, column: Column, parameters: list[Any]) -> str:
    if column.kind in (Kind.INTEGER, Kind.DECIMAL):
        return _compare_exact(op, _number(value, column), column, parameters)
    if column.kind is Kind.NUMBER:
        parameters.append(float(_number(value, column)))
    elif column.kind is Kind.BOOLEAN:
        if not isinstance(value, bool):
            _misfit(column, value, "give true or false")
        parameters.append(value)
    elif column.kind in TEXTUAL:
        if not isinstance(value, str):
            _misfit(column, value, "give text")
        parameters.append(value)
    else:
        parameters.append(_moment(value, column))
    return f"{column.sql} {op} CAST(? AS {column.sql_type})"


def _compare_exact(op: str, value: Decimal, column: Column, parameters: list[Any]) -> str:
    """Compare with a number that may have more digits than the column: never by rounding it."""
    limit = Decimal(10) ** (_DIGITS - column.scale - 1)
    if value.copy_abs() >= limit:  # beyond every cell, which has 30 digits at most
        value = limit.copy_sign(value)
    below = value.quantize(Decimal(1).scaleb(-column.scale), ROUND_FLOOR, _WIDE)
    if below != value:
        # Between two numbers that the column can hold.
        if op == "=":
            return _FALSE
        if op == "!=":
            return f"{column.sql} IS NOT NULL"
        op = {"<": "<=", ">=": ">"}.get(op, op)
    parameters.append(f"{below:f}")
    return f"{column.sql} {op} CAST(? AS {column.sql_type})"


def _number(value: Any, column: Column) -> Decimal:
    try:
        if isinstance(value, bool):
            raise InvalidOperation
        # A float by its shortest text: 0.1 is what was written.
        number = Decimal(repr(value) if isinstance(value, float) else value)
        if not number.is_finite():
            raise InvalidOperation
    except InvalidOperation:
        _misfit(column, value, "give a number, or a text that is one")
    return number


def _moment(value: Any, column: Column) -> str:
    try:
        if not isinstance(value, str):
            raise ValueError
        if column.kind is Kind.DATE:
            return date.fromisoformat(value).isoformat()
        moment = datetime.fromisoformat(value)
        if (moment.tzinfo is not None) != (column.kind is Kind.INSTANT):
            raise ValueError
        return (moment.astimezone(UTC) if moment.tzinfo else moment).replace(tzinfo=None).isoformat(" ")
    except (ValueError, OverflowError):
        form = {Kind.DATE: "2026-11-25", Kind.TIMESTAMP: "2026-11-25T12:00:00", Kind.INSTANT: "2026-11-25T12:00:00Z"}
        _misfit(column, value, f"give it as {form[column.kind]}")


def _misfit(column: Column, value: Any, remedy: str) -> NoReturn:
    shown = clean_text(repr(value), 100)
    raise PermanentError(f"column {clean_text(column.name, 100)!r} is {column.kind}: {shown} does not fit; {remedy}")


_WIDE: Final = Context(prec=2 * _DIGITS, Emin=-999999999999, Emax=999999999999)
