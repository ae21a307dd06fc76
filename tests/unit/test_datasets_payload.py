"""The payload of ``data_processing``: what belongs to which operation, and where a fault is said to be."""

from __future__ import annotations

from typing import Any

import pytest

from actors.data_processing import process_data
from actors.runtime.errors import PayloadRefused
from actors.runtime.job_type import job_types

ID = "7f0c2f0e-5d0b-4a6c-9d43-1b2f6a5d9c11"
SUM = {"op": "sum", "column": "price"}
IS = {"column": "city", "op": "=", "value": "Bern"}


def refuse(**payload: Any) -> list[tuple[str, str]]:
    with pytest.raises(PayloadRefused) as refused:
        job_types()["data_processing"].message({"dataId": ID, **payload})
    return refused.value.faults


@pytest.mark.parametrize(
    ("payload", "pointer", "said"),
    [
        ({}, "/operation", "required"),
        ({"operation": "sort"}, "/operation", "profile"),
        ({"operation": "profile", "dataId": "x"}, "/dataId", "UUID"),
        ({"operation": "profile", "path": "/etc/passwd"}, "/path", "Extra"),
        ({"operation": "profile", "groupBy": ["city"]}, "/groupBy", "belongs to aggregate, not to profile"),
        ({"operation": "filter", "where": [IS], "measures": [SUM]}, "/measures", "belongs to aggregate, not to filter"),
        ({"operation": "filter"}, "/where", "needs where"),
        ({"operation": "filter", "where": []}, "/where", "at least 1"),
        ({"operation": "aggregate"}, "/measures", "needs measures or groupBy"),
        ({"operation": "aggregate", "groupBy": ["a", "a"]}, "/groupBy", "twice"),
        ({"operation": "aggregate", "measures": [{"op": "sum"}]}, "/measures/0/column", "required for sum"),
        ({"operation": "aggregate", "measures": [{"op": "median", "column": "x"}]}, "/measures/0/op", "sum"),
        ({"operation": "aggregate", "measures": [{**SUM, "sql": "1"}]}, "/measures/0/sql", "Extra"),
        ({"operation": "aggregate", "measures": [SUM, SUM]}, "/measures", "named 'sum_price'"),
        ({"operation": "aggregate", "groupBy": ["n"], "measures": [{**SUM, "as": "n"}]}, "/measures", "named 'n'"),
        ({"operation": "filter", "where": [{**IS, "op": "LIKE"}]}, "/where/0/op", "contains"),
        ({"operation": "filter", "where": [IS, {**IS, "value": None}]}, "/where/1/value", "must not be null"),
        ({"operation": "filter", "where": [{**IS, "op": "in"}]}, "/where/0/value", "must be a list"),
        ({"operation": "filter", "where": [{**IS, "op": "in", "value": [[]]}]}, "/where/0/value", "must be text"),
        ({"operation": "filter", "where": [{**IS, "op": "in", "value": []}]}, "/where/0/value", "must be a list"),
        ({"operation": "filter", "where": [{**IS, "op": "is null"}]}, "/where/0/value", "does not belong"),
        ({"operation": "filter", "where": [{**IS, "op": "contains", "value": 1}]}, "/where/0/value", "must be text"),
        ({"operation": "filter", "where": [IS] * 51}, "/where", "at most 50"),
    ],
)
def test_a_fault_is_named_where_it_is(payload: dict[str, Any], pointer: str, said: str) -> None:
    [(found, message)] = refuse(**payload)
    assert found == pointer
    assert said in message


@pytest.mark.parametrize(
    "payload",
    [
        {"operation": "profile"},
        {"operation": "profile", "where": [IS]},
        {"operation": "aggregate", "groupBy": ["city"]},
        {"operation": "aggregate", "measures": [{"op": "count"}, {**SUM, "as": "revenue"}], "where": [IS]},
        {"operation": "filter", "where": [{"column": "n", "op": "not in", "value": [1, 2.5, "3", True]}]},
    ],
)
def test_what_is_sent_comes_back_in_wire_names(payload: dict[str, Any]) -> None:
    kind = job_types()["data_processing"]
    message = kind.message({"dataId": ID, **payload})
    assert message.kwargs["data_id"] == ID
    shown = kind.payload_of(message.kwargs)
    assert {name: value for name, value in shown.items() if value is not None}.keys() == {"dataId", *payload}
    assert kind.message(shown).kwargs == message.kwargs


def test_python_senders_use_snake_case() -> None:
    message = process_data.message(data_id=ID, operation="aggregate", group_by=["city"])
    assert message.kwargs["group_by"] == ["city"]
