"""Cron: schedules that periodiq accepts and that are computed right.

periodiq's own parser never fires on Sunday written as 0, sun or @weekly, fails on fri-sun, and knows local time
only; here ``cronsim`` computes, in a time zone of the schedule's own.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from dramatiq.middleware import Middleware

FIELDS = 5
_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def _fields(expression: str) -> str:
    """What cronsim is to parse: five fields, and a range that ends on Sunday written with 7, as cron(5) counts."""
    fields = _NAMED.get(expression.strip().lower(), expression).split()
    if len(fields) == FIELDS:
        fields[-1] = re.sub(r"(?i)-(sun|0)(?![0-9a-z])", "-7", fields[-1])
        return " ".join(fields)
    from cronsim import CronSimError

    raise CronSimError(f"a cron expression has {FIELDS} fields: {expression!r}")


class Cron:
    """A schedule, in the shape that periodiq asks for: ``validate`` and ``next_valid_date``."""

    def __init__(self, expression: str, tz: str = "UTC") -> None:
        self.expression = expression
        self.zone = ZoneInfo(tz)
        self._fields = _fields(expression)
        self.next_valid_date(datetime.now(UTC))  # a wrong expression fails where it is written

    def __str__(self) -> str:
        return self.expression

    def validate(self, date: datetime) -> bool:
        """Whether the minute of an aware ``date`` is a tick."""
        minute = date.astimezone(UTC).replace(second=0, microsecond=0)
        return self._next(minute - timedelta(minutes=1)) == minute

    def next_valid_date(self, last: Any) -> Any:
        """The first tick after an aware ``last``, in its own time zone and of its own type."""
        due = self._next(last)
        return type(last).fromtimestamp(due.timestamp(), last.tzinfo)

    def _next(self, after: datetime) -> datetime:
        from cronsim import CronSim  # the cron extra: senders do not need it

        start = datetime.fromtimestamp(after.timestamp(), self.zone)
        return next(CronSim(self._fields, start)).astimezone(UTC)


def cron(expression: str, tz: str = "UTC") -> Cron:
    """A schedule for the actor option ``periodic``.

    Args:
      expression: five cron fields, or ``@daily`` and the like. tz: an IANA time zone.

    Raises:
      cronsim.CronSimError: the expression is wrong.
    """
    return Cron(expression, tz)


class Periodic(Middleware):
    """Knows the option ``periodic``, so that actors may be declared with it wherever they are imported."""

    @property
    def actor_options(self) -> set[str]:
        """The option's name."""
        return {"periodic"}
