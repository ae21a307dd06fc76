"""``docs/how-to/schedules.md``: its code runs, its tables say what is so."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from datetime import datetime

import pytest
from dramatiq import get_broker, set_broker

from actors.runtime.broker import CallboardBroker, make_broker
from actors.runtime.calendar import NAMED
from actors.runtime.cron import AT_MOST, Cron, next_run, schedules_of
from dev.home import ROOT
from models.schedules import MISSED, OVERLAP
from tests.unit.test_docs import rows

TEXT = (ROOT / "docs/how-to/schedules.md").read_text(encoding="utf-8")


@pytest.fixture
def broker() -> Iterator[CallboardBroker]:
    """A broker for the page's actors."""
    before = get_broker()
    set_broker(broker := make_broker())
    yield broker
    set_broker(before)


def test_the_code_declares_what_the_page_says(broker: CallboardBroker) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    exec(compile(code, "schedules.md", "exec"), {"__name__": "schedules"})
    assert set(schedules_of(broker.actors.values())) == {
        ("default", "nightly"), ("default", "stats-vienna"), ("acme", "stats-acme")
    }  # fmt: skip


def test_every_argument_is_told() -> None:
    told = [name for row in rows(TEXT, "argument", "meaning") for name in re.findall(r"`(\w+)`", row[0])]
    assert told == list(inspect.signature(Cron).parameters)


def test_names_policies_and_defaults() -> None:
    meaning = {row[0].strip("`"): row[1] for row in rows(TEXT, "argument", "meaning")}
    assert set(re.findall(r"`(@\w+)`", meaning["expression"])) == set(NAMED)
    assert set(re.findall(r"`(\w+)`", meaning["missed"])) == set(MISSED)
    assert set(re.findall(r"`(\w+)`", meaning["overlap"])) == set(OVERLAP)
    assert meaning["at_most"].endswith(f"; {AT_MOST}")
    default = cron_defaults()
    assert (default["missed"], default["overlap"], default["tz"], default["tenant"]) == (
        "once", "allow", "UTC", "default"
    )  # fmt: skip


def cron_defaults() -> dict[str, object]:
    return {name: each.default for name, each in inspect.signature(Cron).parameters.items()}


def test_the_changes_of_the_clock() -> None:
    table = rows(TEXT, "expression", "zone", "after", "next")
    assert len(table) == 5
    for expression, zone, after, expected in table:
        found = next_run(expression.strip("`"), datetime.fromisoformat(after), zone)
        assert found.isoformat() == expected, expression
