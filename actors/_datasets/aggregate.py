"""``aggregate``: figures per group."""

# ruff: noqa: S608 - columns by their place, numbers and our own paths: nothing in the SQL is a tenant's text

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from actors._datasets.engine import Engine
from actors._datasets.kinds import NUMERIC, Column, Kind, plain
from actors._datasets.payload import Measure
from actors._datasets.sums import mean, sum_of
from actors.runtime.errors import PermanentError
from models.json_data import MAX_RESULT_BYTES, clean_text

#: Groups of one result.
MAX_GROUPS: Final = 10_000
#: Bytes (UTF-8, as JSON) of a result's groups; the rest of the result needs far less than what is left.
MAX_GROUPS_BYTES: Final = MAX_RESULT_BYTES - 512 * 1024


class Figure(NamedTuple):
    """One measure as SQL: one expression, or two for a mean."""

    name: str
    type: str
    sql: tuple[str, ...]
    kind: Kind
    is_mean: bool = False

    def value(self, found: Sequence[Any]) -> Any:
        """The figure as JSON, of what its expressions gave."""
        return mean(found[0], found[1], self.kind) if self.is_mean else plain(found[0], self.kind)


def figure(measure: Measure, columns: Mapping[str, Column]) -> Figure:
    """A measure on its column.

    Raises:
      PermanentError: the column's kind has no such figure.
    """
    if measure.op == "count":
        counted = "*" if measure.column is None else columns[measure.column].sql
        return Figure(measure.name, Kind.INTEGER, (f"count({counted})",), Kind.INTEGER)
    assert measure.column is not None
    column = columns[measure.column]
    if measure.op in ("min", "max"):
        return Figure(measure.name, column.kind, (f"{measure.op}({column.sql})",), column.kind)
    kind = column.kind
    if kind is Kind.EMPTY:  # a sum of nothing is nothing
        return Figure(measure.name, kind, ("NULL",), kind)
    if kind not in NUMERIC:
        raise PermanentError(
            f"{measure.op} needs numbers, and column {clean_text(column.name, 100)!r} is {kind}: see a profile"
        )
    if measure.op == "sum":
        return Figure(measure.name, kind, (sum_of(column),), kind)
    shown = Kind.NUMBER if kind is Kind.NUMBER else Kind.DECIMAL
    return Figure(measure.name, shown, (sum_of(column), f"count({column.sql})"), kind, is_mean=True)


def aggregate(groups: Sequence[Column], figures: Sequence[Figure], engine: Engine) -> dict[str, Any]:
    """Figures per group of table ``data``, in order of the groups, empty ones last.

    Returns:
      ``columns`` (``[{name, type}]``), ``groups`` (one object per group) and ``truncated``: whether there were more
      groups than a result may hold.
    """
    keys = [column.sql for column in groups]
    wanted = [*keys, *(sql for each in figures for sql in each.sql)]
    query = f"SELECT {', '.join(wanted)} FROM data"
    if keys:
        order = ", ".join(f"{key} ASC NULLS LAST" for key in keys)
        query += f" GROUP BY {', '.join(keys)} ORDER BY {order} LIMIT {MAX_GROUPS + 1}"
    shown: list[dict[str, Any]] = []
    size, truncated = 0, False
    for row in engine.rows(query):
        group = _group(row, groups, figures)
        size += len(json.dumps(group, ensure_ascii=False).encode())
        if len(shown) == MAX_GROUPS or size > MAX_GROUPS_BYTES:
            truncated = True
            break
        shown.append(group)
    types = [{"name": c.name, "type": c.kind} for c in groups] + [{"name": f.name, "type": f.type} for f in figures]
    return {"columns": types, "groups": shown, "truncated": truncated}


def _group(row: Sequence[Any], groups: Sequence[Column], figures: Sequence[Figure]) -> dict[str, Any]:
    found = {column.name: plain(value, column.kind) for column, value in zip(groups, row, strict=False)}
    place = len(groups)
    for each in figures:
        found[each.name] = each.value(row[place : place + len(each.sql)])
        place += len(each.sql)
    return found
