"""Schedules as periodiq asks for them: ``validate`` and ``next_valid_date``, against known dates and croniter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pendulum
import pytest
from croniter import croniter
from cronsim import CronSimError
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.runtime.cron import Cron, cron

BERLIN = ZoneInfo("Europe/Berlin")
#: A Thursday.
THURSDAY = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def dates(expression: str, after: datetime, number: int, tz: str = "UTC") -> list[datetime]:
    """The next ticks after a time."""
    schedule, found = cron(expression, tz), []
    for _ in range(number):
        after = schedule.next_valid_date(after)
        found.append(after)
    return found


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("day", ["0", "7", "sun", "SUN", "Sun"])
def test_sunday_fires_however_it_is_spelt(day: str) -> None:
    sunday = at("2026-01-04T09:00+00:00")
    assert dates(f"0 9 * * {day}", THURSDAY, 2) == [sunday, sunday + timedelta(days=7)]
    assert cron(f"0 9 * * {day}").validate(sunday)
    assert not cron(f"0 9 * * {day}").validate(sunday + timedelta(days=1))


@pytest.mark.parametrize("name", ["@weekly", " @weekly ", "@WEEKLY"])
def test_weekly_is_sunday_midnight(name: str) -> None:
    assert dates(name, THURSDAY, 1) == [at("2026-01-04T00:00+00:00")]


@pytest.mark.parametrize(
    ("expression", "days"),
    [("0 0 * * fri-sun", [2, 3, 4, 9]), ("0 0 * * mon-sun", [2, 3, 4, 5]), ("0 0 * * 5-7", [2, 3, 4, 9])],
)
def test_ranges_that_end_on_sunday(expression: str, days: list[int]) -> None:
    assert [d.day for d in dates(expression, THURSDAY, 4)] == days


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("@yearly", "2026-01-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("@annually", "2026-05-05T00:00+00:00", "2027-01-01T00:00+00:00"),
        ("@monthly", "2026-01-01T00:00+00:00", "2026-02-01T00:00+00:00"),
        ("@daily", "2026-01-01T00:00+00:00", "2026-01-02T00:00+00:00"),
        ("@midnight", "2026-01-01T23:59:59+00:00", "2026-01-02T00:00+00:00"),
        ("@hourly", "2026-01-01T00:00+00:00", "2026-01-01T01:00+00:00"),
        ("* * * * *", "2026-01-01T00:00:30+00:00", "2026-01-01T00:01+00:00"),
        # Restricted day of month and day of week: either will do (cron(5)).
        ("0 0 * 1 mon", "2026-01-31T00:00+00:00", "2027-01-04T00:00+00:00"),
        ("0 0 13 * fri", "2026-01-10T00:00+00:00", "2026-01-13T00:00+00:00"),
        ("0 0 13 * fri", "2026-01-13T00:00+00:00", "2026-01-16T00:00+00:00"),
        ("0 0 31 * *", "2026-02-01T00:00+00:00", "2026-03-31T00:00+00:00"),
        ("30 2 29 2 *", "2026-01-01T00:00+00:00", "2028-02-29T02:30+00:00"),
        ("30 2 29 2 *", "2096-02-29T02:30+00:00", "2104-02-29T02:30+00:00"),
    ],
)
def test_next_dates(expression: str, after: str, expected: str) -> None:
    assert dates(expression, at(after), 1) == [at(expected)]


def test_the_type_and_zone_of_the_question_are_those_of_the_answer() -> None:
    """periodiq asks with pendulum's dates and goes on computing with the answer."""
    asked = pendulum.datetime(2026, 1, 1, 12, 30, tz="Europe/Berlin")
    answer = cron("0 9 * * sun", "Europe/Berlin").next_valid_date(asked)
    assert isinstance(answer, pendulum.DateTime)
    assert answer.timezone_name == "Europe/Berlin"
    assert answer == pendulum.datetime(2026, 1, 4, 9, tz="Europe/Berlin")
    assert cron("0 9 * * sun", "Europe/Berlin").validate(answer)
    assert (answer.second, answer.microsecond) == (0, 0)


def test_seconds_of_the_question_do_not_matter_to_validate() -> None:
    schedule = cron("30 12 * * *")
    assert schedule.validate(THURSDAY.replace(second=59, microsecond=999_999))
    assert not schedule.validate(THURSDAY.replace(minute=31))


# -- daylight saving in Berlin: 29 March 2026, 02:00 becomes 03:00; 25 October 2026, 03:00 becomes 02:00


def test_a_time_that_the_spring_skips_fires_once_right_after_the_gap() -> None:
    found = dates("30 2 * * *", at("2026-03-28T00:00+00:00"), 3, "Europe/Berlin")
    local = [d.astimezone(BERLIN).strftime("%d %H:%M") for d in found]
    assert local[0] == "28 02:30"
    assert local[1].startswith("29 03:")
    assert local[2] == "30 02:30"


def test_a_time_that_the_autumn_has_twice_fires_once() -> None:
    found = dates("30 2 * * *", at("2026-10-24T12:00+00:00"), 2, "Europe/Berlin")
    assert [d.astimezone(BERLIN).strftime("%d %H:%M") for d in found] == ["25 02:30", "26 02:30"]


@pytest.mark.parametrize("day", ["2026-03-28T23:00+00:00", "2026-10-24T22:00+00:00"])
def test_every_ten_minutes_is_every_ten_minutes_on_both_days(day: str) -> None:
    found = dates("*/10 * * * *", at(day), 6 * 26, "Europe/Berlin")
    assert {b - a for a, b in pairwise(found)} == {timedelta(minutes=10)}


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 3 * * *", "*/30 * * * *", "0 * * * *"])
@pytest.mark.parametrize("day", ["2026-03-28T22:00+00:00", "2026-10-24T21:00+00:00"])
def test_validate_agrees_with_next_valid_date_minute_by_minute(expression: str, day: str) -> None:
    schedule = cron(expression, "Europe/Berlin")
    start = at(day)
    minutes = [start + timedelta(minutes=n) for n in range(1, 6 * 60 + 1)]
    expected = [d for d in dates(expression, start, 20, "Europe/Berlin") if d <= minutes[-1]]
    assert [m for m in minutes if schedule.validate(m)] == expected


def test_a_schedule_keeps_its_zone_whatever_zone_asks() -> None:
    new_york = THURSDAY.astimezone(ZoneInfo("America/New_York"))
    assert cron("0 9 * * *", "Europe/Berlin").next_valid_date(new_york) == at("2026-01-02T08:00+00:00")


# -- wrong expressions


@pytest.mark.parametrize(
    "expression",
    ["", "* * * *", "61 * * * *", "* 24 * * *", "0 0 0 * *", "0 0 32 * *", "0 0 * 13 *", "0 0 * * 8", "@often",
     "0 0 30 2 *", "*/0 * * * *", "5-1 * * * *", "a b c d e", "0 0 * * fri-", "* * * * * *"],
)  # fmt: skip
def test_a_wrong_expression_fails_where_it_is_written(expression: str) -> None:
    with pytest.raises(CronSimError):
        cron(expression)


def test_an_unknown_zone_fails_where_it_is_written() -> None:
    with pytest.raises(LookupError, match="Mars"):
        cron("* * * * *", "Mars/Base")


def test_it_shows_as_its_expression() -> None:
    assert str(cron("@weekly")) == "@weekly"
    assert isinstance(cron("0 0 * * *"), Cron)


# -- against another implementation


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    # croniter takes 0-0 and the whole range for a star.
    span = st.tuples(number, number).filter(lambda ends: ends[0] < ends[1] and ends != (low, high))
    return (
        st.just("*")
        | number.map(str)
        | span.map(lambda ends: f"{ends[0]}-{ends[1]}")
        | st.lists(number, min_size=2, max_size=3, unique=True).map(lambda several: ",".join(map(str, several)))
    )


expressions = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 6)).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(expressions, st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)))  # noqa: DTZ001 - UTC is added below
def test_utc_dates_are_those_of_another_implementation(expression: str, after: datetime) -> None:
    after = after.replace(tzinfo=UTC)
    expected = croniter(expression, after).get_next(datetime)
    schedule = cron(expression)
    assert schedule.next_valid_date(after) == expected
    assert schedule.validate(expected)
