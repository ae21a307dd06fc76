"""What the cells of a column are, and the type that DuckDB computes with.

Nothing is guessed that could lose something: leading zeros, signs and numbers of more than 30 digits stay text, a
decimal column is computed as decimal, and only numbers with exponents become binary floating point.
"""

# ruff: noqa: S608 - columns by their place, numbers and our own paths: nothing in the SQL is a tenant's text

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

#: Digits of an exact number. A sum of 50 MiB of them has eight more, and DuckDB's exact types hold 38.
MAX_DIGITS: Final = 30


class Kind(StrEnum):
    """What is said of a column's cells; the name is what a result shows."""

    EMPTY = "empty"
    INTEGER = "integer"
    DECIMAL = "decimal"
    NUMBER = "number"  # with exponents: a double
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"  # without a zone
    INSTANT = "instant"  # a timestamp with a zone or Z, compared and shown in UTC
    TEXT = "text"
    JSON = "json"  # arrays and objects, as compact text


NUMERIC: Final = frozenset({Kind.INTEGER, Kind.DECIMAL, Kind.NUMBER})
TEXTUAL: Final = frozenset({Kind.TEXT, Kind.JSON})


class Column(NamedTuple):
    """A column of the dataset.

    Attributes:
      place: from 0; DuckDB knows the column as ``c<place>`` and never sees its name.
      scale: digits after the point of a DECIMAL.
    """

    place: int
    name: str
    kind: Kind
    scale: int = 0

    @property
    def sql(self) -> str:
        """Its name in DuckDB."""
        return f"c{self.place}"

    @property
    def sql_type(self) -> str:
        """DuckDB's type."""
        return f"DECIMAL(38, {self.scale})" if self.kind is Kind.DECIMAL else _SQL_TYPES[self.kind]


_SQL_TYPES: Final = {
    Kind.EMPTY: "VARCHAR",
    Kind.INTEGER: "DECIMAL(38, 0)",
    Kind.NUMBER: "DOUBLE",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.DATE: "DATE",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.INSTANT: "TIMESTAMP",
    Kind.TEXT: "VARCHAR",
    Kind.JSON: "VARCHAR",
}

_INTEGER, _DECIMAL, _EXPONENT, _BOOLEAN, _DATE, _TIMESTAMP, _INSTANT, _TEXT = (1 << bit for bit in range(8))
_DAY: Final = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME: Final = r"[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_ZONE: Final = "(Z|[+-][0-9]{2}:[0-9]{2})"
_WHOLE: Final = "-?(0|[1-9][0-9]*)"
#: Text longer than this is no number and no time.
_LONGEST: Final = 64

#: Shapes in the order in which they are tried: bit, pattern, and a check beyond the pattern.
_SHAPES: Final = (
    (_INTEGER, _WHOLE, ""),
    (_DECIMAL, _WHOLE + "\\.[0-9]+", ""),
    (_EXPONENT, _WHOLE + "(\\.[0-9]+)?[eE][+-]?[0-9]+", "isfinite(TRY_CAST({c} AS DOUBLE))"),
    (_BOOLEAN, "(?i:true|false)", ""),
    (_DATE, _DAY, "TRY_CAST({c} AS DATE) >= DATE '0001-01-01'"),
    (_TIMESTAMP, _DAY + _TIME, "TRY_CAST({c} AS TIMESTAMP) >= TIMESTAMP '0001-01-02'"),
    (_INSTANT, _DAY + _TIME + _ZONE, "TRY_CAST({c} AS TIMESTAMP) BETWEEN '0001-01-02' AND '9999-12-30'"),
)


def shape_query(places: list[int], source: str) -> str:
    """SQL that gives three figures per column: its cells' shapes, the most digits before and behind the point.

    Args:
      places: of the columns, at least one.
      source: a table of texts.
    """
    figures = []
    for place in places:
        c = f"c{place}"
        tests = " ".join(
            f"WHEN regexp_full_match({c}, '{pattern}'){' AND ' + check.format(c=c) if check else ''} THEN {bit}"
            for bit, pattern, check in _SHAPES
        )
        figures += [
            f"bit_or(CASE WHEN {c} IS NULL THEN 0 WHEN length({c}) > {_LONGEST} THEN {_TEXT} {tests} ELSE {_TEXT} END)",
            f"max(length(ltrim(split_part({c}, '.', 1), '-')))",
            f"max(length(split_part({c}, '.', 2)))",
        ]
    return f"SELECT {', '.join(figures)} FROM {source}"


def kind_of(shapes: int | None, whole: int | None, scale: int | None, kinds: frozenset[type]) -> tuple[Kind, int]:
    """The kind and scale of a column.

    Args:
      shapes, whole, scale: what :func:`shape_query` found; None where there are no rows.
      kinds: the Python types of its cells in JSON; empty for CSV, whose cells say nothing of themselves.
    """
    from actors._datasets.records import Nested, Number

    if not shapes:
        # Without a shape but with texts: "" in JSON lines is text; CSV has no such cell.
        return (Kind.TEXT if str in kinds else Kind.EMPTY), 0
    if Nested in kinds:
        return (Kind.JSON if kinds == {Nested} else Kind.TEXT), 0
    numbers, times = not kinds or kinds == {Number}, not kinds or kinds == {str}
    if numbers and not shapes & ~(_INTEGER | _DECIMAL):
        scale = scale if shapes & _DECIMAL else 0
        if (whole or 0) + (scale or 0) > MAX_DIGITS:
            return Kind.TEXT, 0
        return (Kind.DECIMAL, scale or 0) if shapes & _DECIMAL else (Kind.INTEGER, 0)
    if numbers and not shapes & ~(_INTEGER | _DECIMAL | _EXPONENT):
        return Kind.NUMBER, 0
    if shapes == _BOOLEAN and (not kinds or kinds == {bool}):
        return Kind.BOOLEAN, 0
    if times and shapes in _TIMES:
        return _TIMES[shapes], 0
    return Kind.TEXT, 0


_TIMES: Final = {_DATE: Kind.DATE, _TIMESTAMP: Kind.TIMESTAMP, _INSTANT: Kind.INSTANT}


def plain(value: Any, kind: Kind) -> Any:
    """A value that DuckDB gave, as JSON: exact numbers that a double cannot hold are texts, times are ISO 8601."""
    if value is None or isinstance(value, bool | str):
        return value
    if kind is Kind.INTEGER:
        number = int(value)
        return number if abs(number) <= _MAX_SAFE else str(number)
    if kind is Kind.DECIMAL:
        return f"{value:f}"
    if kind is Kind.NUMBER:
        return value if abs(value) <= _LARGEST else None
    if kind is Kind.INSTANT:
        return value.isoformat() + "Z"
    return value.isoformat()


#: The largest integer that every JSON reader keeps (RFC 8259 section 6).
_MAX_SAFE: Final = (1 << 53) - 1
_LARGEST: Final = 1.7976931348623157e308
