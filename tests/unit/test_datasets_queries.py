"""Profile, aggregate and filter against the same calculation with ``csv`` and ``Decimal``; and what bounds DuckDB."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from pathlib import Path
from threading import Event, Timer
from time import monotonic
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors._datasets.payload import Condition
from actors._datasets.where import where
from actors.runtime.errors import JobCancelled, PermanentError
from tests.unit.datasets_support import Opened, opened

KEYS = st.sampled_from(["Bern", "Zürich", "", 'a "quoted", one', "line\nbreak", "x'; DROP TABLE data; --"])
NUMBERS = st.one_of(
    st.just(""),
    st.integers(-(10**22), 10**22).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**18), max_value=10**18).map(
        lambda number: f"{number:f}"
    ),
)
TABLES = st.lists(st.tuples(KEYS, NUMBERS), max_size=30)
MEASURES = [{"op": "count"}, *({"op": op, "column": "amount"} for op in ("sum", "avg", "min", "max", "count"))]
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def as_csv(rows: list[tuple[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key", "amount"])
    writer.writerows(rows)
    return text.getvalue()


def exact(value: Any) -> Decimal | None:
    return None if value is None else Decimal(value)


@FEW
@given(TABLES)
def test_an_aggregate_is_what_decimal_says(rows: list[tuple[str, str]]) -> None:
    groups: dict[str | None, list[str]] = defaultdict(list)
    for key, amount in csv.reader(io.StringIO(as_csv(rows), newline="")):
        groups[key or None].append(amount)
    del groups["key"]
    expected = {}
    with localcontext(Context(prec=60)):
        for key, amounts in groups.items():
            numbers = [Decimal(amount) for amount in amounts if amount]
            mean = Context(prec=28).divide(sum(numbers), Decimal(len(numbers))) if numbers else None
            figures = [sum(numbers) if numbers else None, mean, min(numbers, default=None), max(numbers, default=None)]
            expected[key] = [len(amounts), *figures, len(numbers)]
        with opened(as_csv(rows)) as dataset:
            found = dataset.aggregate(["key"], MEASURES)
        assert {
            group["key"]: [exact(group[name]) for name in _names(MEASURES)] for group in found["groups"]
        } == expected
    assert found["truncated"] is False


def _names(measures: list[dict[str, str]]) -> list[str]:
    return [measure["op"] + (f"_{measure['column']}" if "column" in measure else "") for measure in measures]


@FEW
@given(TABLES)
def test_a_profile_is_what_counter_says(rows: list[tuple[str, str]]) -> None:
    numbers = sorted(Decimal(amount) for _, amount in rows if amount)
    keys = Counter(key for key, _ in rows if key)
    with opened(as_csv(rows)) as dataset:
        found, described = dataset.profile("amount"), dataset.profile("key")
    assert found["nulls"] == len(rows) - len(numbers)
    assert found["distinct"] == len(set(numbers))
    assert [exact(found["min"]), exact(found["max"])] == [min(numbers, default=None), max(numbers, default=None)]
    if numbers:
        ranks = {"p25": 25, "p50": 50, "p75": 75, "p95": 95}
        nearest = {name: numbers[max(1, -(-len(numbers) * rank // 100)) - 1] for name, rank in ranks.items()}
        assert {name: Decimal(value) for name, value in found["quantiles"].items()} == nearest
    expected = sorted(keys.items(), key=lambda item: (-item[1], item[0]))
    assert [(top["value"], top["count"]) for top in described["top"]] == expected


OPS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
VALUES = st.one_of(
    NUMBERS.filter(bool),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["0.00001", "-0.00001", "1e99999", "-1e99999", "1e-99999999"]),
)


@FEW
@given(TABLES, st.sampled_from(sorted(OPS)), VALUES)
def test_a_filter_compares_exactly(rows: list[tuple[str, str]], op: str, value: Any) -> None:
    limit = Decimal(repr(value) if isinstance(value, float) else value)
    expected = [row for row in rows if row[1] and OPS[op](Decimal(row[1]), limit)]
    with opened(as_csv(rows)) as dataset:
        kept = dataset.filter({"column": "amount", "op": op, "value": value})
    assert kept == as_csv(expected)


def test_a_filter_copies_records_as_they_stand() -> None:
    data = '"n", b\r\n1,"x ""y"""\r\n\r\n2,"two\nlines"\r\n3,last'
    with opened(data) as dataset:
        assert dataset.filter({"column": "n", "op": ">=", "value": 2}) == '"n", b\r\n2,"two\nlines"\r\n3,last\n'
    with opened('{"a":1.0}\n {"a": 2,  "b":{}}\n', json=True) as dataset:
        assert dataset.filter({"column": "a", "op": "in", "value": [2, 3]}) == ' {"a": 2,  "b":{}}\n'


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"column": "t", "op": "contains", "value": "%"}, [3]),
        ({"column": "t", "op": "<", "value": "b"}, [1]),
        ({"column": "t", "op": "not in", "value": ["a", "b"]}, [3]),
        ({"column": "t", "op": "is null"}, [4]),
        ({"column": "t", "op": "is not null"}, [1, 2, 3]),
        ({"column": "b", "op": "=", "value": True}, [1, 3]),
        ({"column": "d", "op": ">", "value": "2026-01-01"}, [2, 3]),
        ({"column": "i", "op": "=", "value": "2026-01-01T12:00:00+02:00"}, [1]),
        ({"column": "f", "op": ">", "value": 100}, [2]),
        ({"column": "e", "op": "=", "value": "anything"}, []),
    ],
)
def test_each_kind_is_compared_in_its_own_way(condition: dict[str, Any], expected: list[int]) -> None:
    data = (
        "n,t,b,d,i,f,e\n"
        "1,a,true,2026-01-01,2026-01-01T10:00:00Z,1.5,\n"
        "2,b,false,2026-01-02,2026-01-01T10:00:01Z,1e3,\n"
        "3,c%,true,2026-01-03,2026-01-01T11:00:00Z,-1e3,\n"
        "4,,,,,,\n"
    )
    with opened(data) as dataset:
        kept = list(csv.DictReader(io.StringIO(dataset.filter(condition))))
    assert [int(row["n"]) for row in kept] == expected


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"column": "nope", "op": "=", "value": 1}, "there is no column 'nope'; there are: n, t, b"),
        ({"column": "n", "op": "=", "value": "x"}, "column 'n' is integer: 'x' does not fit; give a number"),
        ({"column": "n", "op": "=", "value": "nan"}, "does not fit"),
        ({"column": "n", "op": "=", "value": True}, "does not fit"),
        ({"column": "n", "op": "contains", "value": "1"}, "'contains' is for text"),
        ({"column": "t", "op": "=", "value": 1}, "give text"),
        ({"column": "b", "op": "=", "value": "true"}, "give true or false"),
    ],
)
def test_a_value_that_does_not_fit_is_named(condition: dict[str, Any], said: str) -> None:
    with opened("n,t,b\n1,a,true\n") as dataset, pytest.raises(PermanentError, match=said):
        _where(condition, dataset)


def _where(condition: dict[str, Any], dataset: Opened) -> None:
    made = Condition.model_validate(condition)
    where([made], dataset.staged.types_of([made.column], dataset.engine))


def test_a_sum_of_text_is_refused() -> None:
    with opened("a\nx\n") as dataset, pytest.raises(PermanentError, match="sum needs numbers, and column 'a' is text"):
        dataset.aggregate([], [{"op": "sum", "column": "a"}])


def test_integers_that_a_double_cannot_hold_are_texts() -> None:
    with opened("a\n9007199254740991\n2\n") as dataset:
        [group] = dataset.aggregate([], [{"op": op, "column": "a"} for op in ("max", "sum", "avg")])["groups"]
    assert group == {"max_a": 9007199254740991, "sum_a": "9007199254740993", "avg_a": "4503599627370496.5"}


def test_more_groups_than_a_result_holds_are_said_to_be_more() -> None:
    with opened("a\n" + "".join(f"{n}\n" for n in range(10_001))) as dataset:
        found = dataset.aggregate(["a"], [{"op": "count"}])
    assert (len(found["groups"]), found["truncated"]) == (10_000, True)
    with opened("a\n" + "".join(f"{n}{'x' * 100_000}\n" for n in range(100))) as dataset:
        found = dataset.aggregate(["a"], [{"op": "count"}])
    assert 30 < len(found["groups"]) < 40
    assert found["truncated"] is True


HOSTILE = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "COPY (SELECT 1) TO '{folder}/written'",
    "ATTACH '{folder}/other.db'",
    "INSTALL httpfs",
    "LOAD '{folder}/x.duckdb_extension'",
    "SET memory_limit = '8GB'",
    "SET enable_external_access = true",
    "SET allowed_paths = ['/etc/passwd']",
    "PRAGMA temp_directory = '{folder}'",
]


@pytest.mark.parametrize("sql", HOSTILE)
def test_sql_that_got_in_would_reach_nothing(sql: str, tmp_path: Path) -> None:
    with opened("a\n1\n") as dataset, pytest.raises(duckdb.Error) as refused:
        dataset.engine.rows(sql.format(folder=tmp_path))
    assert "disabled" in str(refused.value) or "locked" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["'); SELECT * FROM read_csv('/etc/passwd'); --", '"', "c0", "n", "$1", "?", "\\"])
def test_names_and_values_are_data(text: str) -> None:
    data = io.StringIO()
    csv.writer(data).writerows([[text, "other"], [text, "1"], ["x", "2"]])
    with opened(data.getvalue()) as dataset:
        assert dataset.types()[text].kind == "text"
        condition = {"column": text, "op": "=", "value": text}
        [group] = dataset.aggregate([text], [{"op": "sum", "column": "other", "as": "total"}], condition)["groups"]
        assert group == {text: text, "total": 1}
        assert dataset.profile(text)["top"][0]["count"] == 1


#: Takes far longer than these tests wait, and yet ends: were it not stopped, the tests would fail instead of hanging.
ENDLESS = "SELECT count(*) FROM range(10000000) a, range(300) b WHERE (a.range * b.range) % 7 = 3"


def test_a_cancel_stops_a_query_that_runs() -> None:
    cancelled = Event()

    def check() -> None:
        if cancelled.is_set():
            raise JobCancelled()

    with opened("a\n1\n", check=check) as dataset:
        Timer(0.3, cancelled.set).start()
        begun = monotonic()
        with pytest.raises(JobCancelled):
            dataset.engine.rows(ENDLESS)
        assert monotonic() - begun < 2.3


def test_a_query_ends_when_its_time_is_over() -> None:
    over = pytest.raises(PermanentError, match=r"longer than 0\.5 s")
    with opened("a\n1\n", time_limit_s=0.5) as dataset, over:
        dataset.engine.rows(ENDLESS)


def test_a_query_that_needs_too_much_is_refused() -> None:
    with opened("a\n1\n") as dataset, pytest.raises(PermanentError, match="more than 256MB of memory"):
        dataset.engine.rows("SELECT list(range) FROM range(500000000)")
