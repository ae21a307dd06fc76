"""Schedules, declared beside their actors: ``periodic=cron("0 3 * * *")``, or a list of several.

An actor's option holds what periodiq asks (``validate``, ``next_valid_date``). periodiq only wakes the ticker
(:mod:`actors.runtime.ticker`), as maintenance does; which ticks are due is decided there, in SQL. periodiq's own
parser never fires on Sunday written as 0, sun or @weekly, fails on fri-sun, and knows local time only; ours is
:mod:`actors.runtime.calendar`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from dramatiq import Actor
from dramatiq.middleware import Middleware

from actors.runtime.calendar import Calendar, next_run
from actors.runtime.options import stock_option_fault, take_options
from actors.runtime.sending import DEFAULT_TENANT
from models.errors import OptionRefused
from models.json_data import MAX_ARGS_BYTES, encode
from models.schedules import MISSED, OVERLAP

#: Missed ticks that ``missed="all"`` makes up for, the latest ones.
AT_MOST: Final = 100
#: What a schedule may be called: it stands in addresses.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}")
_MINUTE = timedelta(minutes=1)


class Cron:
    """A schedule for the actor option ``periodic``; for several, give a list of them.

    Args:
      expression: five cron fields, or ``@daily`` and the like. tz: an IANA time zone.
      name: unique in its tenant; the actor's own name unless it is given.
      args, kwargs: the actor's arguments. tenant: whose jobs they are.
      missed: what becomes of ticks that are more than a minute late, because nothing ran: ``skip``, ``once`` (one job
        for all of them) or ``all`` (the latest ``at_most`` of them).
      overlap: what becomes of a tick while a run before it is live: ``allow`` both, ``skip`` the tick, or ``queue``
        it behind that run (one waits at most).
      options: of each message: ``priority``, ``max_attempts``, ``backoff``, ``unique_key``, …

    Raises:
      cronsim.CronSimError: the expression is wrong. LookupError: there is no such zone. ValueError: another argument
        is wrong. DataRefused, OptionRefused: no job could be sent with these.
    """

    def __init__(
        self,
        expression: str,
        tz: str = "UTC",
        *,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        tenant: str = DEFAULT_TENANT,
        missed: str = "once",
        at_most: int = AT_MOST,
        overlap: str = "allow",
        **options: Any,
    ) -> None:
        if missed not in MISSED:
            raise ValueError(f"missed must be one of {', '.join(MISSED)}, not {missed!r}")
        if overlap not in OVERLAP:
            raise ValueError(f"overlap must be one of {', '.join(OVERLAP)}, not {overlap!r}")
        if not 1 <= at_most <= 1000:
            raise ValueError("at_most must be from 1 to 1000")
        if name is not None and not NAME.fullmatch(name):
            raise ValueError(f"a schedule's name has letters, digits and ._:@- only, up to 100: not {name!r}")
        self.expression = expression
        self.zone = ZoneInfo(tz)
        self.name = name
        self.args = list(args)
        self.kwargs = dict(kwargs or {})
        self.tenant = tenant
        self.missed = missed
        self.at_most = at_most
        self.overlap = overlap
        self.options = _checked(options)
        encode(self.args, max_bytes=MAX_ARGS_BYTES)
        encode(self.kwargs, max_bytes=MAX_ARGS_BYTES)
        try:
            self._calendar: Calendar | None = Calendar(expression, tz)  # a wrong expression fails where it is written
        except ModuleNotFoundError:
            self._calendar = None  # a sender without the cron extra

    def __str__(self) -> str:
        return self.expression

    def calendar(self) -> Calendar:
        """Its ticks. Raises ModuleNotFoundError: the extra ``cron`` is not installed."""
        return self._calendar or Calendar(self.expression, self.zone.key)

    def validate(self, date: datetime) -> bool:
        """Whether the minute of an aware ``date`` is a tick."""
        minute = datetime.fromtimestamp(date.timestamp(), UTC).replace(second=0, microsecond=0)
        return self.calendar().next(minute - _MINUTE) == minute

    def next_valid_date(self, last: Any) -> Any:
        """The first tick after an aware ``last``, in its own time zone and of its own type."""
        due = self.calendar().next(datetime.fromtimestamp(last.timestamp(), UTC))
        return type(last).fromtimestamp(due.timestamp(), last.tzinfo)


#: As periodiq spells it.
cron = Cron


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the messages, as JSON data. Raises OptionRefused."""
    for name in ("run_at", "tenant_id"):
        if name in options:
            raise OptionRefused(name, "is the schedule's to say")
    plain = {
        name: value / timedelta(milliseconds=1) if isinstance(value, timedelta) else value
        for name, value in options.items()
    }
    take_options(rest := dict(plain))
    if fault := stock_option_fault(rest):
        raise OptionRefused(*fault)
    encode(plain, max_bytes=MAX_ARGS_BYTES)
    return plain


class Schedule(NamedTuple):
    """A declared schedule with its place: who owns it, what it is called, whom it sends to."""

    tenant_id: str
    name: str
    actor: Actor[Any, Any]
    cron: Cron


class Alarm:
    """What periodiq asks an actor's option: when to wake this process's ticker.

    To its first question the answer is yes: what was missed while nothing ran is made up for when periodiq starts.
    """

    def __init__(self, crons: Sequence[Cron]) -> None:
        self.crons = tuple(crons)
        self._asked = False

    def __str__(self) -> str:
        return "; ".join(map(str, self.crons))

    def validate(self, date: datetime) -> bool:
        """Whether to send at an aware ``date``."""
        first, self._asked = not self._asked, True
        return first or any(each.validate(date) for each in self.crons)

    def next_valid_date(self, last: Any) -> Any:
        """When to ask again, of the type of ``last``."""
        return min(each.next_valid_date(last) for each in self.crons)


def alarm_of(declared: Any) -> Any:
    """The option ``periodic`` as it is kept: an :class:`Alarm` for schedules of ours, anything else as it is."""
    if isinstance(declared, Cron):
        return Alarm([declared])
    if isinstance(declared, (list, tuple)) and declared and all(isinstance(each, Cron) for each in declared):
        return Alarm(declared)
    return declared


def schedules_of(actors: Iterable[Actor[Any, Any]]) -> dict[tuple[str, str], Schedule]:
    """Every schedule that these actors declare, by tenant and name.

    Raises:
      ValueError: two have the same name, or an actor's name cannot be a schedule's.
    """
    found: dict[tuple[str, str], Schedule] = {}
    for actor in actors:
        alarm = actor.options.get("periodic")
        for each in alarm.crons if isinstance(alarm, Alarm) else ():
            name = each.name or actor.actor_name
            if not NAME.fullmatch(name):
                raise ValueError(f"the schedule of actor {name!r} needs a name: cron(…, name=…)")
            if (each.tenant, name) in found:
                raise ValueError(
                    f"two schedules of tenant {each.tenant!r} are called {name!r}: give one cron(…, name=…)"
                )
            found[each.tenant, name] = Schedule(each.tenant, name, actor, each)
    return found


class Periodic(Middleware):
    """Knows the option ``periodic``, so that actors may be declared with it wherever they are imported."""

    @property
    def actor_options(self) -> set[str]:
        """The option's name."""
        return {"periodic"}


__all__ = ["NAME", "Alarm", "Cron", "Periodic", "Schedule", "alarm_of", "cron", "next_run", "schedules_of"]
