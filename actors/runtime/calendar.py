"""Calendar: which instants a cron expression means in a time zone, on both edges of daylight saving.

``cronsim`` parses the five fields and walks the local clock's readings, without a zone; here each reading becomes
the instants at which it is shown. The rules are those of Debian's cron:

- An expression whose minute or hour begins with ``*`` follows real time: it fires whenever the clock shows a
  matching reading, so twice where the clock shows it twice, and not at all where it skips it.
- Any other names fixed times: a reading that the clock skips fires once, at the first minute after the gap; one that
  it shows twice fires at the first of them.
- Day of month and day of week: if both are restricted (begin with no ``*``), either will do; else both must fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain, takewhile
from zoneinfo import ZoneInfo

FIELDS = 5
NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MINUTE = timedelta(minutes=1)
#: A clock that is put back further ahead than this shows nothing again that is behind us.
_LARGEST_FOLD = timedelta(hours=25)
#: Spans of time in which the latest ticks are looked for, short ones first.
_SPANS = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=366), timedelta(days=366 * 9))


def _fields(expression: str) -> str:
    """What cronsim is to parse: five fields, and a range that ends on Sunday written with 7, as cron(5) counts."""
    fields = NAMED.get(expression.strip().lower(), expression).split()
    if len(fields) == FIELDS:
        # sun-sun stays what it is: as 0-7 it would be every day.
        fields[-1] = re.sub(r"(?i)(?<![0-9a-z])(?!sun-|0-)(\w+)-(?:sun|0)(?![0-9a-z])", r"\1-7", fields[-1])
        return " ".join(fields)
    from cronsim import CronSimError

    raise CronSimError(f"a cron expression has {FIELDS} fields: {expression!r}")


class Calendar:
    """The ticks of one expression in one zone.

    Args:
      expression: five cron fields, or ``@daily`` and the like. tz: an IANA time zone.

    Raises:
      cronsim.CronSimError: the expression is wrong, or never fires. LookupError: there is no such zone.
      ModuleNotFoundError: the extra ``cron`` is not installed; senders do not need it.
    """

    def __init__(self, expression: str, tz: str = "UTC") -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("schedules need cronsim: install callboard[cron]", name="cronsim") from error

        self.expression = expression
        self.zone = ZoneInfo(tz)
        self._fields = _fields(expression)
        self._walk = CronSim
        minute, hour, *_ = self._fields.split()
        self._fixed = not minute.startswith("*") and not hour.startswith("*")
        try:
            next(self._readings(datetime(2000, 1, 1)))  # noqa: DTZ001 - a reading of some clock
        except StopIteration:
            raise CronSimError(f"never fires: {expression!r}") from None

    def next(self, after: datetime) -> datetime:
        """The first tick later than an aware ``after``, in UTC."""
        reading = self._reading(after)
        found = next(instant for instant in self._from(reading) if instant > after)
        put_back = self._offset(after) - self._offset(after + _LARGEST_FOLD)
        if not self._fixed and put_back > timedelta(0):
            # The clock will show again what is behind us: ticks of that may come before the one found.
            end = self._reading(found)
            repeated = takewhile(lambda shown: shown <= end, self._readings(reading - put_back))
            found = min([found, *(i for shown in repeated for i in self._instants(shown) if i > after)])
        return found

    def latest(self, after: datetime, until: datetime, at_most: int) -> list[datetime]:
        """The ticks later than ``after`` and not later than ``until``, in order: the last ``at_most`` of them."""
        for span in chain(_SPANS, [until - after]):
            start = max(after, until - span)
            found = list(self._between(start, until))
            if len(found) >= at_most or start == after:
                break
        return found[-at_most:]

    def _between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        while (after := self.next(after)) <= until:
            yield after

    def _readings(self, after: datetime) -> Iterator[datetime]:
        return iter(self._walk(self._fields, after))

    def _from(self, reading: datetime) -> Iterator[datetime]:
        return (instant for shown in self._readings(reading) for instant in self._instants(shown))

    def _instants(self, reading: datetime) -> list[datetime]:
        """When the zone's clock shows a reading, in UTC; for a fixed time, when it fires."""
        both = [reading.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        shown = [instant for instant in both if self._reading(instant) == reading]
        if not self._fixed:
            return shown
        if shown:
            return shown[:1]
        while self._reading((reading := reading + _MINUTE).replace(tzinfo=self.zone).astimezone(UTC)) != reading:
            pass
        return [reading.replace(tzinfo=self.zone).astimezone(UTC)]

    def _reading(self, instant: datetime) -> datetime:
        return instant.astimezone(self.zone).replace(tzinfo=None)

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self.zone).utcoffset() or timedelta(0)


def next_run(expression: str, after: datetime, tz: str = "UTC") -> datetime:
    """The first time later than ``after`` at which an expression fires.

    Args:
      expression: five cron fields, or ``@daily`` and the like. after: an aware datetime. tz: an IANA time zone.

    Returns: an aware datetime in that zone.

    Raises:
      cronsim.CronSimError: the expression is wrong. LookupError: there is no such zone.
      ValueError: ``after`` has no time zone.
    """
    if after.tzinfo is None:
        raise ValueError("after must be a datetime with a time zone")
    calendar = Calendar(expression, tz)
    return calendar.next(after).astimezone(calendar.zone)
