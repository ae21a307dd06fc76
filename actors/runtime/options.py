"""What a sender may ask for, checked before anything is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from models.errors import OptionRefused

#: Milliseconds: no job is scheduled further ahead than 100 years.
MAX_DELAY_MS = 100 * 365 * 86_400_000
MAX_ATTEMPTS = 1000
#: Milliseconds before the second attempt: a week.
MAX_BACKOFF_MS = 7 * 86_400_000
#: Priorities go from minus this, which is first, to this.
MAX_PRIORITY = 10
#: Characters.
MAX_UNIQUE_KEY = 255
#: Dramatiq's own count of attempts after the first; as big as a column of the ledger.
MAX_RETRIES = (1 << 31) - 2
#: Names that are ours and live in columns, not in the message's options.
OURS = ("delay", "run_at", "priority", "max_attempts", "unique_key", "unique_scope", "unique_for", "tenant_id")


class SendOptions(NamedTuple):
    """The checked options of one job."""

    delay_ms: float | None
    run_at: datetime | None
    priority: int | None
    max_attempts: int | None
    unique_key: str | None
    unique_scope: str | None
    unique_for_ms: float | None
    tenant_id: str | None


def _number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise OptionRefused(name, f"must be {'an integer' if whole else 'a number'}, not {type(value).__name__}")
    if not low <= value <= high:
        raise OptionRefused(name, f"must be from {low:g} to {high:g}")
    return value


def _ms(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds() * 1000
    return float(_number(name, value, 0, MAX_DELAY_MS))


def _text(name: str, value: Any, longest: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        raise OptionRefused(name, f"must be text of 1 to {longest} characters")
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise OptionRefused(name, "contains a NUL or a lone surrogate")
    return value


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise OptionRefused("run_at", "must be a datetime with a time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise OptionRefused("run_at", "is a time that UTC cannot express") from None


def check_backoff(value: Any) -> dict[str, Any] | None:
    """``{"type": "exponential" | "fixed", "delay": ms}`` or None. Raises OptionRefused."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"type", "delay"}:
        raise OptionRefused("backoff", "must have exactly the fields type and delay")
    if value["type"] not in ("exponential", "fixed"):
        raise OptionRefused("backoff", "type must be exponential or fixed")
    return {"type": value["type"], "delay": _number("backoff", value["delay"], 0, MAX_BACKOFF_MS)}


def take_options(options: dict[str, Any]) -> SendOptions:
    """Remove our options from a message's and check them.

    Args:
      options: the message's options; ``delay`` in milliseconds or a timedelta.

    Raises:
      OptionRefused: naming the option.
    """
    given = {name: options.pop(name, None) for name in OURS}
    if "backoff" in options:
        backoff = check_backoff(options.pop("backoff"))
        if backoff is not None:
            options["backoff"] = backoff
    if given["delay"] is not None and given["run_at"] is not None:
        raise OptionRefused("run_at", "cannot be combined with delay")
    scope, period = given["unique_scope"], _ms("unique_for", given["unique_for"])
    key = _text("unique_key", given["unique_key"], MAX_UNIQUE_KEY)
    if scope not in (None, "live", "waiting", "period"):
        raise OptionRefused("unique_scope", "must be live, waiting or period")
    if (scope == "period") != (period is not None):
        raise OptionRefused("unique_for", "goes with unique_scope=period, and that needs it")
    if key is None and scope is not None:
        raise OptionRefused("unique_scope", "needs a unique_key")
    return SendOptions(
        delay_ms=_ms("delay", given["delay"]),
        run_at=_time(given["run_at"]),
        priority=(
            None
            if given["priority"] is None
            else _number("priority", given["priority"], -MAX_PRIORITY, MAX_PRIORITY, whole=True)
        ),
        max_attempts=(
            None
            if given["max_attempts"] is None
            else _number("max_attempts", given["max_attempts"], 1, MAX_ATTEMPTS, whole=True)
        ),
        unique_key=key,
        unique_scope=(scope or "live") if key is not None else None,
        unique_for_ms=period,
        tenant_id=_text("tenant_id", given["tenant_id"], 100),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_message(value: Any) -> bool:
    """Whether a nested message (the next stage of a pipeline) is one."""
    fields: dict[str, Any] = {
        "queue_name": str,
        "actor_name": str,
        "args": (list, tuple),
        "kwargs": dict,
        "options": dict,
    }
    return isinstance(value, Mapping) and all(isinstance(value.get(name), kind) for name, kind in fields.items())


#: Options of Dramatiq's own middleware and what each must be: a wrong one raises where nobody catches it, and ends
#: the worker's thread. Classes of exceptions cannot travel in a message, so ``throws`` belongs to the actor.
_STOCK: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "throws": ("can only be set on the actor", lambda value: False),
    "pipe_target": ("must be a message", _is_message),
    "on_success": ("must be an actor's name", lambda value: isinstance(value, str)),
    "on_failure": ("must be an actor's name", lambda value: isinstance(value, str)),
    "on_retry_exhausted": ("must be an actor's name", lambda value: isinstance(value, str)),
    "max_retries": ("must be an integer", lambda value: type(value) is int and abs(value) < MAX_RETRIES),
    "min_backoff": ("must be a number of milliseconds", lambda value: _is_number(value) and 0 <= value < MAX_DELAY_MS),
    "max_backoff": ("must be a number of milliseconds", lambda value: _is_number(value) and 0 <= value < MAX_DELAY_MS),
    "time_limit": ("must be a number of milliseconds", lambda value: _is_number(value) and 0 < value < MAX_DELAY_MS),
    "max_age": ("must be a number of milliseconds", lambda value: _is_number(value) and value >= 0),
    "notify_shutdown": ("must be true or false", lambda value: isinstance(value, bool)),
    "backoff": ("must have exactly the fields type and delay", lambda value: isinstance(value, Mapping)),
}


def stock_option_fault(options: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first of Dramatiq's own options that would break a worker, and why; None is what most of them may be."""
    for name, (wanted, fits) in _STOCK.items():
        value = options.get(name)
        if value is not None and not fits(value):
            return name, wanted
    return None


def without_faults(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a stock producer that a worker can live with; nobody checked them when they were sent."""
    kept = {name: value for name, value in options.items() if name not in OURS}
    for name in OURS:
        if options.get(name) is not None:
            try:
                take_options({name: options[name]})
            except OptionRefused:
                continue
            kept[name] = options[name]
    if "backoff" in kept:
        try:
            check_backoff(kept["backoff"])
        except OptionRefused:
            del kept["backoff"]
    while fault := stock_option_fault(kept):
        del kept[fault[0]]
    # As a number it may still be null, which the stock middleware compares with one.
    return {name: value for name, value in kept.items() if value is not None or name == "max_retries"}
