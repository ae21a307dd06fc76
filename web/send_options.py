"""What a tenant may say about a job besides its payload; Dramatiq's own options are not among it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from web.problems import Fault

#: The members of ``options`` in POST /jobs, with their JSON Schema.
OPTION_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "delay": {"type": "integer", "minimum": 0, "description": "Milliseconds before the job may start."},
    "run_at": {"type": "string", "format": "date-time", "description": "Not before this time (RFC 3339)."},
    "priority": {"type": "integer", "minimum": -10, "maximum": 10, "description": "Lower first; 0 by default."},
    "max_attempts": {"type": "integer", "minimum": 1, "maximum": 1000},
    "backoff": {
        "type": "object",
        "additionalProperties": False,
        "required": ["type", "delay"],
        "properties": {
            "type": {"enum": ["exponential", "fixed"]},
            "delay": {"type": "integer", "minimum": 0, "maximum": 604_800_000, "description": "Milliseconds."},
        },
    },
    "unique_key": {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "description": "While a job with this key is live, another send returns that job, marked duplicate.",
    },
}


def read_options(value: Any) -> tuple[dict[str, Any], list[Fault]]:
    """The options for ``JobType.message`` and what is wrong with them; ranges are checked there.

    Args:
      value: the member ``options`` of the body; None or absent: none.
    """
    if value is None:
        return {}, []
    if not isinstance(value, Mapping):
        return {}, [Fault("/options", "must be an object")]
    options = {name: given for name, given in value.items() if given is not None}
    faults = [
        Fault(
            "/options/" + name.replace("~", "~0").replace("/", "~1")[:200],
            f"is not an option here; there are {', '.join(OPTION_SCHEMAS)}",
        )
        for name in value
        if name not in OPTION_SCHEMAS
    ]
    for name in ("delay",):
        if name in options and (isinstance(options[name], bool) or not isinstance(options[name], int)):
            faults.append(Fault(f"/options/{name}", "must be a whole number of milliseconds"))
    if "backoff" in options:
        faults += _backoff_faults(options["backoff"])
    if "run_at" in options:
        try:
            options["run_at"] = _time(options["run_at"])
        except (ValueError, OverflowError):
            faults.append(Fault("/options/run_at", "must be an RFC 3339 time with its offset: 2030-01-31T12:00:00Z"))
    return options, faults


def _backoff_faults(value: Any) -> list[Fault]:
    if not isinstance(value, Mapping):
        return [Fault("/options/backoff", "must be an object with type and delay")]
    faults = [
        Fault(f"/options/backoff/{name[:200]}", "is not a known field")
        for name in value
        if name not in ("type", "delay")
    ]
    if "delay" in value and (isinstance(value["delay"], bool) or not isinstance(value["delay"], int)):
        faults.append(Fault("/options/backoff/delay", "must be a whole number of milliseconds"))
    return faults


def _time(value: Any) -> datetime:
    if not isinstance(value, str) or len(value) > 64 or "T" not in value.upper():
        raise ValueError
    time = datetime.fromisoformat(value.upper())
    if time.tzinfo is None:
        raise ValueError
    return time
