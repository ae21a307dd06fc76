"""``next_run`` against two oracles: a matcher of minutes written here, and croniter.

The matcher knows nothing of cronsim. It parses the fields into sets, looks at every minute of each local day that can
match, and reads the zone's clock: the rules of daylight saving in :mod:`actors.runtime.calendar`, spelt out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from actors.runtime.cron import next_run

#: Whole hours, whole hours in the other hemisphere of the clock, and half an hour: each with both edges.
ZONES = ("Europe/Vienna", "America/New_York", "Australia/Lord_Howe")
INSTANTS = 200
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
MONTHS = {
    name: n
    for n, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)
}
DAYS = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
NAMED = {
    "@yearly": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}

EXPRESSIONS = (
    # Sunday, in every spelling, and ranges that end on it
    "0 9 * * 0", "0 9 * * 7", "0 9 * * sun", "0 9 * * SUN", "@weekly", "15 3 * * fri-sun", "15 3 * * 5-7",
    "0 12 * * mon-sun", "0 12 * * sat,sun", "0 12 * * 6-7", "*/20 * * * sun",
    # February 29th
    "0 0 29 2 *", "30 2 29 2 *", "*/30 2 29 2 *", "0 12 29 feb *",
    # day of month with day of week: either
    "0 0 1 * mon", "0 0 13 * fri", "30 2 1,15 * sun", "0 4 31 * 3", "0 0 1-7 * 1",
    # both edges: fixed times inside, before and after what is skipped and shown twice
    "30 2 * * *", "0 2 * * *", "59 2 * * *", "0 3 * * *", "15,45 2 * * *", "30 1 * * *", "45 1,2,3 * * *",
    "30 2 * 3,10,11 sun",
    # and expressions that follow real time
    "*/30 * * * *", "*/10 2 * * *", "0 * * * *", "15 */2 * * *", "*/45 1-3 * * *", "30 * * * sun", "* 2 * * *",
    "* * * * *",
    # the rest
    "@yearly", "@monthly", "@daily", "@hourly", "5/15 9-17 * * mon-fri", "0 0 31 * *", "0 22 * * 1-5",
    "23 0-20/2 * * *",
    "5 4 * * sun", "0 0,12 1 */2 *", "0 6 30 4,6,9,11 *", "*/5 * 1 jan *",
)  # fmt: skip


# -- the matcher


def numbers(text: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    """The values of one field."""
    found: set[int] = set()
    for term in text.lower().split(","):
        span, _, step = term.partition("/")
        if span == "*":
            first, last = low, high
        else:
            ends = [names[end] if end in names else int(end) for end in span.split("-")]
            first, last = ends[0], ends[-1]
            if len(ends) == 1 and step:
                last = high
            if last < first:
                last = 7  # Sunday at the end of a week
        found |= set(range(first, last + 1, int(step or 1)))
    return frozenset(found)


@cache
def parsed(expression: str) -> tuple[frozenset[int], ...]:
    minute, hour, day, month, weekday = NAMED.get(expression, expression).split()
    return (
        numbers(minute, 0, 59, {}),
        numbers(hour, 0, 23, {}),
        numbers(day, 1, 31, {}),
        numbers(month, 1, 12, MONTHS),
        frozenset(n % 7 for n in numbers(weekday, 0, 7 if weekday != "*" else 6, DAYS)),
    )


def is_day(expression: str, day: date) -> bool:
    """Whether the date fits."""
    _, _, days, months, weekdays = parsed(expression)
    _, _, day_text, _, weekday_text = NAMED.get(expression, expression).split()
    of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
    fits = of_month and of_week if "*" in (day_text[0], weekday_text[0]) else of_month or of_week
    return fits and day.month in months


def follows_real_time(expression: str) -> bool:
    """Whether minute or hour begin with a star."""
    minute, hour, *_ = NAMED.get(expression, expression).split()
    return "*" in (minute[0], hour[0])


@cache
def minutes_of(zone: str, day: date) -> tuple[tuple[datetime, datetime], ...]:
    """Every minute at which the zone's clock shows this date: (instant, what it shows), in order."""
    tz = ZoneInfo(zone)
    start = datetime(day.year, day.month, day.day, 12, tzinfo=tz).astimezone(UTC) - timedelta(hours=14)
    offset = timedelta(0)
    found = []
    for n in range(28 * 60):
        instant = start + n * MINUTE
        if n % 30 == 0:  # clocks are changed on the hour, or half past
            offset = instant.astimezone(tz).utcoffset() or timedelta(0)
        shown = (instant + offset).replace(tzinfo=None)
        if shown.day == day.day:
            found.append((instant, shown))
    return tuple(found)


@cache
def ticks_of(expression: str, zone: str, day: date) -> tuple[datetime, ...]:
    """The instants of one local day, in order."""
    if not is_day(expression, day):
        return ()
    minutes, hours, *_ = parsed(expression)
    clock = minutes_of(zone, day)
    if follows_real_time(expression):
        return tuple(at for at, shown in clock if shown.minute in minutes and shown.hour in hours)
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - a reading of the zone's clock
    readings = [midnight.replace(hour=hour, minute=minute) for hour in hours for minute in minutes]
    # The first minute that shows the reading or, what was skipped coming right after the gap, a later one.
    return tuple(sorted({next(at for at, shown in clock if shown >= reading) for reading in readings}))


def brute_force(expression: str, after: datetime, zone: str) -> datetime:
    """The first tick later than ``after``, by looking at day after day."""
    day = after.astimezone(ZoneInfo(zone)).date()
    while True:
        for instant in ticks_of(expression, zone, day):
            if instant > after:
                return instant
        day += DAY


# -- instants: half of them around the edges


@cache
def edges(zone: str) -> tuple[datetime, ...]:
    """When the clock was or will be changed, 2023 to 2031."""
    tz, found = ZoneInfo(zone), []
    at = datetime(2023, 1, 1, tzinfo=UTC)
    while at.year < 2032:
        if at.astimezone(tz).utcoffset() != (at + timedelta(hours=1)).astimezone(tz).utcoffset():
            found.append(at + timedelta(hours=1))
        at += timedelta(hours=1)
    return tuple(found)


def instants(zone: str) -> Iterator[datetime]:
    draw = random.Random(zone)
    for n in range(INSTANTS):
        if n % 2:
            start, spread = draw.choice(edges(zone)[4:10]), timedelta(hours=5)
        else:
            start, spread = datetime(2027, 6, 1, tzinfo=UTC), timedelta(days=2 * 365)
        at = start + spread * draw.uniform(-1, 1)
        yield at.replace(microsecond=0) if n % 3 else at.replace(second=0, microsecond=0)


# -- the comparison


def why_croniter_differs(expression: str, found: datetime, theirs: datetime, zone: str) -> str | None:
    """The reason for which croniter's answer is not followed; None: there is none, and somebody is wrong."""
    shown = theirs.astimezone(ZoneInfo(zone))
    if follows_real_time(expression) and theirs not in ticks_of(expression, zone, shown.date()):
        return "fires when a gap ends, at a minute that the expression does not name"
    if not follows_real_time(expression) and shown.fold:
        return "fires a fixed time again when the clock shows it again"
    if follows_real_time(expression) and found.astimezone(ZoneInfo(zone)).fold and theirs > found:
        return "passes over what the clock shows again"
    return None


@pytest.mark.parametrize("zone", ZONES)
def test_next_run_is_what_both_oracles_say(zone: str) -> None:
    compared, differs = 0, Counter[str]()
    for after in instants(zone):
        for expression in EXPRESSIONS:
            # Compared in UTC: Python holds no reading that a clock shows twice equal to one of another zone.
            found = next_run(expression, after, zone).astimezone(UTC)
            case = f"{expression!r} after {after.isoformat()} in {zone}"
            assert found == brute_force(expression, after, zone), case
            compared += 1
            theirs = croniter(expression, after.astimezone(ZoneInfo(zone))).get_next(datetime).astimezone(UTC)
            if theirs != found:
                reason = why_croniter_differs(expression, found, theirs, zone)
                assert reason, f"{case}: {found.isoformat()}, but croniter {theirs.isoformat()}"
                differs[reason] += 1
    print(f"{zone}: {compared} compared; the matcher agrees with all, croniter with {compared - differs.total()}")
    for reason, number in sorted(differs.items()):
        print(f"  {number} times croniter {reason}")
    assert compared == len(EXPRESSIONS) * INSTANTS
    assert differs.total() < compared / 50


def test_it_is_enough() -> None:
    assert len(set(EXPRESSIONS)) >= 40
    assert all(len(edges(zone)) == 18 for zone in ZONES)


# -- by hand


@pytest.mark.parametrize(
    ("expression", "after", "zone", "expected"),
    [
        ("30 2 * * *", "2026-03-28T12:00+01:00", "Europe/Vienna", "2026-03-29T03:00:00+02:00"),
        ("15,45 2 * * *", "2026-03-29T01:59+01:00", "Europe/Vienna", "2026-03-29T03:00:00+02:00"),
        ("15,45 2 * * *", "2026-03-29T03:00+02:00", "Europe/Vienna", "2026-03-30T02:15:00+02:00"),
        ("30 2 * * *", "2026-10-24T12:00+02:00", "Europe/Vienna", "2026-10-25T02:30:00+02:00"),
        ("30 2 * * *", "2026-10-25T02:10+01:00", "Europe/Vienna", "2026-10-26T02:30:00+01:00"),
        ("*/30 * * * *", "2026-10-25T02:30+02:00", "Europe/Vienna", "2026-10-25T02:00:00+01:00"),
        ("*/30 2 25 10 *", "2026-10-25T02:40+02:00", "Europe/Vienna", "2026-10-25T02:00:00+01:00"),
        ("*/30 2 * * *", "2026-03-29T01:59+01:00", "Europe/Vienna", "2026-03-30T02:00:00+02:00"),
        # The clock is changed at midnight, so that one day begins at 01:00.
        ("0 0 * * *", "2025-04-24T12:00+02:00", "Africa/Cairo", "2025-04-25T01:00:00+03:00"),
        # Half an hour.
        ("*/10 5 * * *", "2026-10-04T00:00+10:30", "Australia/Lord_Howe", "2026-10-04T05:00:00+11:00"),
        # A day that an island left out.
        ("0 12 30 12 *", "2011-12-01T00:00-10:00", "Pacific/Apia", "2011-12-31T00:00:00+14:00"),
        ("0 0 * * sun-sun", "2026-01-01T00:00+00:00", "UTC", "2026-01-04T00:00:00+00:00"),
    ],
)
def test_next_run(expression: str, after: str, zone: str, expected: str) -> None:
    found = next_run(expression, datetime.fromisoformat(after), zone)
    assert (found.isoformat(), found.tzinfo) == (expected, ZoneInfo(zone))


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        next_run("* * * * *", datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
