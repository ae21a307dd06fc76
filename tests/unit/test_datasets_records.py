"""Reading datasets: what is data, what is refused, and which line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors._datasets import staging
from actors._datasets.records import CSV, JSON_LINES, MAX_COLUMNS, Number, Source
from actors.runtime.errors import PermanentError
from tests.unit.datasets_support import opened


def read(tmp_path: Path, data: str | bytes, media_type: str = CSV) -> tuple[list[str], list[list[object]], str]:
    path = tmp_path / "data"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    source = Source(path, media_type)
    records = list(source.records())
    return source.columns, [record.cells for record in records], source.header


@pytest.mark.parametrize(
    ("data", "columns", "cells"),
    [
        ("a,b\n1,2\n", ["a", "b"], [["1", "2"]]),
        ("a,b\r\n1,2\r\n\r\n3,4", ["a", "b"], [["1", "2"], ["3", "4"]]),
        ("\ufeffa\n1\n", ["a"], [["1"]]),
        ('a,"b ""c"", d"\n"x\ny",\n', ["a", 'b "c", d'], [["x\ny", ""]]),
        ("a\n", ["a"], []),
        ("\n\na,b\n1,2\n", ["a", "b"], [["1", "2"]]),
        ("; DROP TABLE data,c0\n1,2\n", ["; DROP TABLE data", "c0"], [["1", "2"]]),
        (f"a\n{'x' * 131_000}\n", ["a"], [["x" * 131_000]]),
    ],
)
def test_csv(tmp_path: Path, data: str, columns: list[str], cells: list[list[str]]) -> None:
    assert read(tmp_path, data)[:2] == (columns, cells)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "no header"),
        ("\n\n", "no header"),
        ("a,b\n1,2\n\n1\n", "line 4: 1 fields where the header has 2"),
        ("a,b\n1,2,3\n", "line 2: 3 fields"),
        ('a,b\n"x\ny",2\n1\n', "line 4: 1 fields"),
        ('a\n"x"y\n', "line 2: not CSV"),
        ('a\n1\n"x\n\n', "line 3: not CSV: unexpected end of data"),
        ("a,b,a\n", "line 1: two columns are named 'a'"),
        (f"a\n{'x' * 131_073}\n", "line 2: not CSV: field larger than"),
        ("a\n" + '"' + "x\n" * 600_000, "line 2: not CSV: field larger than"),
        (",".join(map(str, range(10_000))), f"line 1: 10,000 columns; at most {MAX_COLUMNS}"),
        ("x" * 201 + "\n", "line 1: the name of a column is longer than 200"),
    ],
)
def test_csv_that_is_refused(tmp_path: Path, data: str, said: str) -> None:
    with pytest.raises(PermanentError, match=said):
        read(tmp_path, data)


def test_json_lines(tmp_path: Path) -> None:
    data = '{"a": 1.50, "b": "x"}\n\n{"b": true, "c": [1, 2.0, {"d": null}]}\r\n{"a": 12345678901234567890}'
    columns, cells, _ = read(tmp_path, data, JSON_LINES[0])
    assert columns == ["a", "b", "c"]
    assert cells == [["1.50", "x"], [None, True, '[1,2.0,{"d":null}]'], ["12345678901234567890", None, None]]
    assert isinstance(cells[0][0], Number)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("1", "not a JSON object"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1, "a": 2}', "a key occurs twice"),
        ('{"a": "\\ud800"}', "a lone surrogate"),
        ('{"a": "x\\u0000"}', "a NUL character"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested deeper than 64 levels"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 64 levels"),
        ('{"a": "' + "x" * 1_048_576 + '"}', "the record is longer"),
        ('{"a": 1} {"a": 2}', "not JSON: Extra data"),
    ],
)
def test_json_lines_that_are_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(PermanentError, match=f"line 3: {said}"):
        read(tmp_path, f'{{"a": 1}}\n{{"a": "\\\\u0000"}}\n{line}\n', JSON_LINES[1])


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", ""], "integer"),
        (["9007199254740993"], "integer"),
        (["9" * 30], "integer"),
        (["9" * 31], "text"),
        (["1", "2.50"], "decimal"),
        (["1.5", "1" * 30], "text"),
        (["007"], "text"),
        (["+1"], "text"),
        (["1.5", "1e3"], "number"),
        (["1e400"], "text"),
        (["NaN", "1"], "text"),
        (["true", "FALSE"], "boolean"),
        (["2026-11-25"], "date"),
        (["2026-02-30"], "text"),
        (["0000-01-01"], "text"),
        (["2026-11-25T12:00:00", "2026-11-25 12:00"], "timestamp"),
        (["2026-11-25T12:00:00Z", "2026-11-25T12:00:00.5+02:00"], "instant"),
        (["2026-11-25", "2026-11-25T12:00:00"], "text"),
        (["", ""], "empty"),
        (["Bern", "1"], "text"),
    ],
)
def test_the_kind_of_a_csv_column(cells: list[str], kind: str) -> None:
    rows = "".join(f"{cell},x\n" for cell in cells)
    with opened(f"a,b\n{rows}") as dataset:
        assert dataset.types()["a"].kind == kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2"], "integer"),
        (["1", "2.5", "null"], "decimal"),
        (['"1"'], "text"),
        (["1", '"1"'], "text"),
        (["true", "null"], "boolean"),
        (['"true"'], "text"),
        (['"2026-11-25"'], "date"),
        (["null"], "empty"),
        (['""'], "text"),
        (["[1]", "{}"], "json"),
        (["[1]", "1"], "text"),
    ],
)
def test_the_kind_of_a_json_column(values: list[str], kind: str) -> None:
    with opened("".join(f'{{"a": {value}}}\n' for value in values), json=True) as dataset:
        assert dataset.types()["a"].kind == kind


def test_a_row_that_is_too_long_is_refused() -> None:
    names, cells = ",".join(f"c{n}" for n in range(20)), ",".join(["x" * 110_000] * 20)
    too_long = pytest.raises(PermanentError, match="line 2: the record is longer than 2,097,152 characters")
    with too_long, opened(f"{names}\n{cells}\n"):
        pass


def test_an_empty_text_is_no_null_in_json_lines() -> None:
    with opened('{"a": ""}\n{"a": null}\n{}\n{"a": "x"}\n', json=True) as dataset:
        found = dataset.profile("a")
        assert (found["nulls"], found["distinct"]) == (2, 2)
        assert dataset.filter({"column": "a", "op": "=", "value": ""}) == '{"a": ""}\n'


def test_json_lines_without_a_row() -> None:
    with opened("", json=True) as dataset:
        assert dataset.load() == 0
        assert dataset.aggregate([], [{"op": "count"}])["groups"] == [{"count": 0}]


def test_a_dataset_that_grows_out_of_all_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few characters name many columns, and every empty line has all of them."""
    monkeypatch.setattr(staging, "MAX_STAGED", 100_000)
    columns = ",".join(f'"k{number}": 1' for number in range(MAX_COLUMNS))
    (tmp_path / "data").write_text("{" + columns + "}\n" + "{}\n" * 1_000)
    with pytest.raises(PermanentError, match="as a table of 500 columns"):
        staging.Staged(Source(tmp_path / "data", JSON_LINES[0]), tmp_path / "staged", lambda: None)
    assert (tmp_path / "staged").stat().st_size < 110_000
