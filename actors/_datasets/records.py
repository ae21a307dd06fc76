"""A dataset's records one after the other, each with its cells and its own text, so that a filter copies verbatim.

CSV is read as :mod:`csv` reads it in strict mode (RFC 4180: commas, ``"`` doubled within quotes, CR, LF or CRLF); the
first record names the columns. JSON lines: one object per line, RFC 8259. Empty lines count for nothing in both.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from actors._datasets.payload import MAX_NAME
from actors.runtime.errors import PermanentError
from models.json_data import MAX_DEPTH, clean_text

#: Columns of one dataset.
MAX_COLUMNS: Final = 500
#: Characters of one JSON line.
MAX_RECORD: Final = 1024 * 1024
CSV: Final = "text/csv"
#: Both names of JSON lines.
JSON_LINES: Final = ("application/x-ndjson", "application/jsonl")


class Number(str):
    """A number as it was written: neither digits nor scale are lost."""

    __slots__ = ()


class Nested(str):
    """An array or object as compact JSON text."""

    __slots__ = ()


class Record(NamedTuple):
    """One row.

    Attributes:
      line: where it begins, from 1.
      cells: by column; of CSV always text, of JSON lines text, Number, bool, Nested or None.
      text: the record as it stands in the file, with its line end if it has one.
    """

    line: int
    cells: list[Any]
    text: str


class Source:
    """The records of a file; the columns are known once :meth:`records` was begun (CSV) or read to its end."""

    def __init__(self, path: Path, media_type: str) -> None:
        self.path = path
        self.is_csv = media_type == CSV
        self.columns: list[str] = []
        #: The header's own text; "" where there is none.
        self.header = ""

    def records(self, *, texts: bool = True) -> Iterator[Record]:
        """Every row, in order; without their texts where nobody needs them, because that is quicker.

        Raises:
          PermanentError: naming the line that cannot be read.
        """
        # newline: line ends within quotes are data, and JSON lines end with LF only.
        with self.path.open(encoding="utf-8-sig", newline="" if self.is_csv else "\n") as file:
            yield from self._csv(file, texts=texts) if self.is_csv else self._json(file)

    def _csv(self, file: Iterator[str], *, texts: bool) -> Iterator[Record]:
        taken: list[str] = []
        line, width = 1, -1

        def noting() -> Iterator[str]:
            for each in file:
                taken.append(each)
                yield each
                if width >= 0 and not texts:
                    return  # the header's own text is always wanted

        reader = csv.reader(chain(noting(), file), strict=True)
        try:
            for cells in reader:
                text = "".join(taken)
                taken.clear()
                if len(cells) == width:
                    yield Record(line, cells, text)
                elif cells and width < 0:
                    _check_columns(cells, line)
                    self.columns, self.header, width = cells, text, len(cells)
                elif cells:
                    _refuse(line, f"{len(cells)} fields where the header has {width}")
                line = reader.line_num + 1
        except csv.Error as error:
            _refuse(line, f"not CSV: {error}")
        if width < 0:
            raise PermanentError("the dataset has no header: its first line must name the columns")

    def _json(self, file: Iterator[str]) -> Iterator[Record]:
        places: dict[str, int] = {name: place for place, name in enumerate(self.columns)}
        for line, text in enumerate(file, 1):
            if len(text) > MAX_RECORD:
                _refuse(line, f"the record is longer than {MAX_RECORD:,} characters")
            if not text.strip(" \t\r\n"):
                continue
            members = _parse(text, line)
            if not members.keys() <= places.keys():
                for name in members:
                    if name not in places:
                        places[name] = len(places)
                        self.columns.append(name)
                _check_columns(self.columns, line)
            cells: list[Any] = [None] * len(places)
            for name, value in members.items():
                cells[places[name]] = value
            yield Record(line, cells, text)


def _check_columns(names: list[str], line: int) -> None:
    if len(names) > MAX_COLUMNS:
        _refuse(line, f"{len(names):,} columns; at most {MAX_COLUMNS} can be processed")
    seen: set[str] = set()
    for name in names:
        if len(name) > MAX_NAME:
            _refuse(line, f"the name of a column is longer than {MAX_NAME} characters")
        if name in seen:
            _refuse(line, f"two columns are named {name!r}")
        seen.add(name)


def _parse(text: str, line: int) -> dict[str, Any]:
    try:
        value = _DECODER.decode(text.strip(" \t\r\n"))
        if not isinstance(value, dict):
            _refuse(line, "not a JSON object")
        members = {name: _nested(member) for name, member in value.items()}
        if "\\u" in text:
            # Only by an escape can these come in: the bytes were UTF-8 without NUL when they were stored.
            plain = "".join([*members, *(member for member in members.values() if isinstance(member, str))])
            plain.encode()
            if "\0" in plain:
                _refuse(line, "a NUL character (U+0000) cannot be kept")
    except json.JSONDecodeError as error:
        _refuse(line, f"not JSON: {error.msg} (column {error.colno})")
    except RecursionError:
        _refuse(line, _TOO_DEEP)
    except UnicodeEncodeError:
        _refuse(line, "a lone surrogate (half of a UTF-16 pair) is not text")
    except ValueError as error:
        _refuse(line, str(error))
    return members


def _nested(value: Any) -> Any:
    return Nested(_compact(value, MAX_DEPTH)) if isinstance(value, list | dict) else value


def _compact(value: Any, levels: int) -> str:
    """JSON text without spaces, numbers as they were written. Raises ValueError."""
    if levels == 0:
        raise ValueError(_TOO_DEEP)
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join([_compact(item, levels - 1) for item in value]) + "]"
    if isinstance(value, dict):
        members = [f"{_quoted(name)}:{_compact(item, levels - 1)}" for name, item in value.items()]
        return "{" + ",".join(members) + "}"
    return _quoted(value)


def _quoted(value: str | bool | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return members


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_constant=_constant, parse_int=Number, parse_float=Number
)


def _refuse(line: int, what: str) -> NoReturn:
    raise PermanentError(f"line {line:,}: {clean_text(what, 300)}")
