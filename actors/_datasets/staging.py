"""From a dataset's bytes to a table of DuckDB: read once in Python, written down unambiguously, typed, loaded."""

# ruff: noqa: S608 - columns by their place, numbers and our own paths: nothing in the SQL is a tenant's text

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Final

from actors._datasets.engine import Engine, quoted
from actors._datasets.kinds import Column, kind_of, shape_query
from actors._datasets.records import Source
from actors.runtime.errors import PermanentError
from models.json_data import clean_text

#: Records between two looks at whether the job should stop.
CHECK_EVERY: Final = 2_000
#: Columns whose shapes are found in one query.
SHAPES_AT_ONCE: Final = 50
#: Characters of one row in the file: DuckDB reads it whole.
MAX_ROW: Final = 2 * 1024 * 1024
#: Characters of the whole file. JSON lines that name many columns and fill few grow two hundredfold.
MAX_STAGED: Final = 512 * 1024 * 1024


class Staged:
    """A dataset as a file that DuckDB reads without guessing: the row's number, then its cells as quoted texts."""

    def __init__(self, source: Source, path: Path, check: Callable[[], None]) -> None:
        self.source = source
        self.path = path
        self.rows = 0
        #: Python types of each column's cells, for JSON lines.
        self._types: list[set[type]] = []
        self._write(check)
        self.columns = source.columns

    def _write(self, check: Callable[[], None]) -> None:
        if not self.source.is_csv:
            # Every key must be known before the first row is written.
            for number, _ in enumerate(self.source.records(texts=False)):
                if number % CHECK_EVERY == 0:
                    check()
        is_csv, texts, rows, left = self.source.is_csv, self._texts, 0, MAX_STAGED
        with self.path.open("w", encoding="utf-8", newline="") as file:
            for record in self.source.records(texts=False):
                if rows % CHECK_EVERY == 0:
                    check()
                rows += 1
                line = _row(record.cells, empty="") if is_csv else _row(texts(record.cells), empty='""')
                if len(line) > MAX_ROW:
                    raise PermanentError(f"line {record.line:,}: the record is longer than {MAX_ROW:,} characters")
                left -= file.write(f"{rows},{line}\n")
                if left < 0:
                    raise PermanentError(
                        f"line {record.line:,}: as a table of {len(self.source.columns):,} columns it has more "
                        f"than {MAX_STAGED:,} characters; leave out columns that are mostly empty"
                    )
        self.rows = rows

    def _texts(self, cells: list[Any]) -> list[str | None]:
        """JSON's cells as texts; what they were is remembered."""
        while len(self._types) < len(cells):
            self._types.append(set())
        texts: list[str | None] = []
        for cell, types in zip(cells, self._types, strict=True):
            if cell is None:
                texts.append(None)
                continue
            types.add(type(cell))
            texts.append(("true" if cell else "false") if isinstance(cell, bool) else cell)
        return texts

    @property
    def sql(self) -> str:
        """The file as a table of texts for FROM; columns ``n``, ``c0``, ``c1``…"""
        columns = ", ".join(["'n': 'BIGINT'", *(f"'c{place}': 'VARCHAR'" for place in range(len(self.columns)))])
        return (
            f"read_csv({quoted(self.path)}, auto_detect = false, header = false, delim = ',', quote = '\"', "
            # Quoted, a text is never null: JSON lines know "" beside null. CSV's empty fields are not quoted here.
            f"escape = '\"', new_line = '\\n', nullstr = '', allow_quoted_nulls = false, "
            f"max_line_size = {4 * MAX_ROW}, columns = {{{columns}}})"
        )

    def types_of(self, names: Iterable[str], engine: Engine) -> dict[str, Column]:
        """The kinds of these columns, by name.

        Raises:
          PermanentError: there is no such column.
        """
        places = [self._place(name) for name in names]
        found: dict[str, Column] = {}
        remaining = iter(places)
        while batch := list(islice(remaining, SHAPES_AT_ONCE)):
            [figures] = engine.rows(shape_query(batch, self.sql))
            for index, place in enumerate(batch):
                types = frozenset(self._types[place]) if place < len(self._types) else frozenset()
                shapes, whole, scale = figures[3 * index : 3 * index + 3]
                name = self.columns[place]
                found[name] = Column(place, name, *kind_of(shapes, whole, scale, types))
        return found

    def _place(self, name: str) -> int:
        try:
            return self.columns.index(name)
        except ValueError:
            there = ", ".join(self.columns) or "none"
            raise PermanentError(
                f"there is no column {clean_text(name, 100)!r}; there are: {clean_text(there, 500)}"
            ) from None

    def load(self, columns: Iterable[Column], matching: str, parameters: list[Any], engine: Engine) -> int:
        """Make table ``data`` of these columns in their types, and ``n``, the row's number; returns its rows.

        Args:
          columns: those that are needed.
          matching: SQL of the rows that are wanted. parameters: its values.
        """
        typed = [f"CAST({column.sql} AS {column.sql_type}) AS {column.sql}" for column in columns]
        rows = f"SELECT {', '.join(['n', *typed])} FROM {self.sql}"
        engine.rows(f"CREATE TABLE data AS SELECT * FROM ({rows}) WHERE {matching}", parameters)
        [(count,)] = engine.rows("SELECT count(*) FROM data")
        return int(count)


def _row(cells: list[str | None], *, empty: str) -> str:
    """One line of the file; ``empty`` is how a text without characters is written: ``""`` or, as null, nothing."""
    return ",".join(['"' + cell.replace('"', '""') + '"' if cell else "" if cell is None else empty for cell in cells])
