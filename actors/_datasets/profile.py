"""``profile``: what is in each column."""

# ruff: noqa: S608 - columns by their place, numbers and our own paths: nothing in the SQL is a tenant's text

from __future__ import annotations

from typing import Any, Final

from actors._datasets.engine import Engine
from actors._datasets.kinds import NUMERIC, TEXTUAL, Column, plain
from actors._datasets.sums import mean, sum_of
from models.json_data import clean_text

#: The most frequent values that are shown.
TOP: Final = 10
#: Characters that are shown of a text; 500 columns of such texts stay below the bound of a job's result.
SHOWN: Final = 80
#: Quantiles by nearest rank: each is a value that occurs.
QUANTILES: Final = {"p25": 25, "p50": 50, "p75": 75, "p95": 95}


def profile_column(column: Column, engine: Engine) -> dict[str, Any]:
    """The figures of one column of table ``data``; all from a table of its values and how often each occurs.

    Returns:
      ``name``, ``type``, ``nulls``, ``distinct``, ``min``, ``max``, ``top`` (``[{value, count}]``), and of numbers
      ``mean`` and ``quantiles``.
    """
    engine.rows(f"CREATE OR REPLACE TABLE counted AS SELECT {column.sql} AS v, count(*) AS k FROM data GROUP BY ALL")
    try:
        [(rows, filled, distinct, least, most)] = engine.rows(
            "SELECT coalesce(sum(k), 0), coalesce(sum(k) FILTER (v IS NOT NULL), 0), count(v), min(v), max(v) "
            "FROM counted"
        )
        top = engine.rows(f"SELECT v, k FROM counted WHERE v IS NOT NULL ORDER BY k DESC, v LIMIT {TOP}")
        found: dict[str, Any] = {
            "name": column.name,
            "type": column.kind,
            "nulls": int(rows - filled),
            "distinct": distinct,
            "min": _shown(least, column),
            "max": _shown(most, column),
            "top": [{"value": _shown(value, column), "count": count} for value, count in top],
        }
        if column.kind in NUMERIC:
            [(total,)] = engine.rows(f"SELECT {sum_of(column)} FROM data")
            found["mean"] = mean(total, int(filled), column.kind)
            found["quantiles"] = _quantiles(int(filled), column, engine) if filled else {}
    finally:
        engine.rows("DROP TABLE IF EXISTS counted")
    return found


def _quantiles(filled: int, column: Column, engine: Engine) -> dict[str, Any]:
    ranks = {name: max(1, -(-filled * percent // 100)) for name, percent in QUANTILES.items()}
    figures = ", ".join(f"min(v) FILTER (upto >= {rank})" for rank in ranks.values())
    [values] = engine.rows(
        f"SELECT {figures} FROM (SELECT v, sum(k) OVER (ORDER BY v) AS upto FROM counted WHERE v IS NOT NULL)"
    )
    return {name: plain(value, column.kind) for name, value in zip(ranks, values, strict=True)}


def _shown(value: Any, column: Column) -> Any:
    return clean_text(value, SHOWN) if column.kind in TEXTUAL and value is not None else plain(value, column.kind)
