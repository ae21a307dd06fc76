"""Set-shaped parameters: columns of arrays that one statement joins as a table.

Arrays travel as text or integers and are cast by the server, so that the statements run on any driver that
knows lists, also on a caller's own connection.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, Text, bindparam, cast, column, func
from sqlalchemy.sql.expression import TableValuedAlias
from sqlalchemy.types import TypeEngine


def rows_of(name: str, /, **types: TypeEngine[Any] | type[TypeEngine[Any]]) -> TableValuedAlias:
    """``unnest(:name_a, :name_b, …) AS name(a, b, …)``; give the statement one list per column.

    Args:
      name: the alias; parameters are called ``<name>_<column>``.
      types: column name → SQL type to which the server casts each element.
    """
    arrays = [cast(bindparam(f"{name}_{key}", type_=ARRAY(Text)), ARRAY(type_)) for key, type_ in types.items()]
    columns = [column(key, type_) for key, type_ in types.items()]
    return func.unnest(*arrays).table_valued(*columns, name=name).render_derived()


def as_text(value: object) -> str | None:
    """One element of such an array: SQL text of the value, or None for NULL."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def parameters(name: str, /, **columns: list[Any]) -> dict[str, list[str | None]]:
    """The parameters for :func:`rows_of`, every element as text."""
    return {f"{name}_{key}": [as_text(v) for v in values] for key, values in columns.items()}
