"""What ``encode`` accepts, real Postgres accepts, and Python reads it back equal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from models.errors import DataRefused
from models.json_data import encode

pytestmark = pytest.mark.integration

# No care taken: NUL, surrogates, NaN and long integers come too, and `encode` has to find them.
wild_text = st.text(alphabet=st.characters(exclude_categories=()))
wild = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**310), 10**310)
    | st.floats()
    | st.sampled_from([5e-324, 1.7976931348623157e308, -0.0, 1e22, 2**63, 10**300 - 1])
    | wild_text,
    lambda inner: st.lists(inner) | st.dictionaries(wild_text | st.integers() | st.none(), inner),
    max_leaves=30,
)


def same(back: Any, value: Any) -> bool:
    """Equal, taking a number for what a float can tell: jsonb keeps 1e308 as a numeric and writes all its digits."""
    if isinstance(value, dict):
        return isinstance(back, dict) and back.keys() == value.keys() and all(same(back[k], value[k]) for k in value)
    if isinstance(value, list):
        return isinstance(back, list) and len(back) == len(value) and all(map(same, back, value))
    if isinstance(value, float):
        return float(back) == value
    return type(back) is type(value) and bool(back == value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wild)
def test_accepted_is_stored_and_reads_back_equal(engine: Engine, value: object) -> None:
    try:
        written = encode(value, max_bytes=10**6)
    except DataRefused:
        return
    statement = text("SELECT CAST(CAST(:x AS json) AS text), CAST(CAST(:x AS jsonb) AS text)")
    with engine.connect() as connection:
        as_json, as_jsonb = connection.execute(statement, {"x": written}).one()
    assert as_json == written
    assert same(json.loads(as_jsonb), json.loads(written))


@pytest.mark.parametrize("levels", [1, 64])
def test_the_deepest_and_largest_are_stored(engine: Engine, levels: int) -> None:
    value: object = "é\\u0000" * 1000
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    written = encode(value, max_bytes=10**6)
    with engine.connect() as connection:
        back = connection.execute(text("SELECT CAST(CAST(:x AS jsonb) AS text)"), {"x": written}).scalar_one()
    assert json.loads(back) == value
