"""The bodies that send jobs, as models: what they say is what is enforced and what the OpenAPI document shows.

Ranges come from :mod:`actors.runtime.options`, which judges every sender. Dramatiq's own options are not among
those that a tenant may give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from actors.runtime.job_type import job_types
from actors.runtime.options import MAX_ATTEMPTS, MAX_BACKOFF_MS, MAX_DELAY_MS, MAX_PRIORITY, MAX_UNIQUE_KEY
from models.json_data import clean_text
from web.bodies import Body

#: Jobs of one POST /jobs/batch.
MAX_BATCH: Final = 1000

#: RFC 3339 section 5.6; Python's own parser takes more and less.
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(\.\d+)?(?:[Zz]|([+-](?:[01]\d|2[0-3]):[0-5]\d))",
    re.ASCII,
)


@dataclass(frozen=True)
class Whole:
    """Marks a field as one of JSON's integers (1.0 is one) from ``low`` to ``high``."""

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """The range, so that the JSON Schema shows it, behind a check that says all of it at once."""
        whole = core_schema.int_schema(ge=self.low, le=self.high, strict=True)
        return core_schema.no_info_before_validator_function(self._check, whole)

    def _check(self, value: Any) -> int:
        whole = value.is_integer() if isinstance(value, float) else type(value) is int
        if not whole or not self.low <= value <= self.high:
            text = f"must be a whole number from {self.low:,} to {self.high:,}"
            raise PydanticCustomError("whole", "{text}", {"text": text})
        return int(value)


def _time(value: Any) -> datetime:
    found = _RFC_3339.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("time", "must be an RFC 3339 time with its offset: 2030-01-31T12:00:00Z")
    date, hour, minute, second, fraction, offset = found.groups()
    leap = second == "60"
    text = f"{date}T{hour}:{minute}:{'59' if leap else second}{(fraction or '')[:7]}{offset or '+00:00'}"
    try:
        return (datetime.fromisoformat(text) + timedelta(seconds=leap)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("time", "must be a day that exists, in UTC from the year 1 to 9999") from None


def _backoff(value: Any, handler: Any) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        if any(fault["loc"] == ("type",) for fault in error.errors()):
            raise PydanticCustomError("backoff", "must have type exponential or fixed, and delay") from None
        raise


def _known(name: str) -> str:
    known = job_types()
    if name not in known:
        there_are = ", ".join(known) or "none"
        text = f"there is no job type {clean_text(name, 100)!r}; there are {there_are}"
        raise PydanticCustomError("job_type", "{text}", {"text": text})
    return name


class Backoff(Body):
    """How long a job waits between its attempts."""

    type: Literal["exponential", "fixed"]
    delay: Annotated[int, Whole(0, MAX_BACKOFF_MS)] = Field(description="Milliseconds before the second attempt.")


class SendOptions(Body):
    """What a sender may say about a job besides its payload; null is as good as absent."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["delay", "run_at"],
                "properties": {"delay": {"type": "number"}, "run_at": {"type": "string"}},
            }
        }
    )

    delay: Annotated[int, Whole(0, MAX_DELAY_MS)] | None = Field(
        None, description="Milliseconds before the job may start."
    )
    run_at: Annotated[datetime, BeforeValidator(_time)] | None = Field(
        None, description="Not before this time (RFC 3339); instead of delay."
    )
    priority: Annotated[int, Whole(-MAX_PRIORITY, MAX_PRIORITY)] | None = Field(
        None, description="Lower first; 0 by default."
    )
    max_attempts: Annotated[int, Whole(1, MAX_ATTEMPTS)] | None = Field(
        None, description="Attempts in all, the first included."
    )
    backoff: Annotated[Backoff, WrapValidator(_backoff)] | None = Field(
        None, description="How long the job waits between its attempts."
    )
    unique_key: Annotated[str, Field(min_length=1, max_length=MAX_UNIQUE_KEY, pattern=r"^[^\x00]+$")] | None = Field(
        None, description="While a job with this key is live, another send returns that job, marked duplicate."
    )

    @field_validator("run_at")
    @classmethod
    def _instead_of_delay(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        if value is not None and info.data.get("delay") is not None:
            raise PydanticCustomError("run_at", "cannot be combined with delay")
        return value

    def given(self) -> dict[str, Any]:
        """The options for ``JobType.message``."""
        return self.model_dump(exclude_none=True)


class Send(Body):
    """One job to send; its payload is judged by its job type's own model."""

    type: Annotated[str, AfterValidator(_known)] = Field(description="A job type: see GET /job-types.")
    payload: dict[str, Any]
    options: SendOptions | None = None


class Batch(Body):
    """Jobs to send together: all of them are accepted, or none."""

    jobs: Annotated[list[Send], Field(min_length=1, max_length=MAX_BATCH)]


def option_schemas() -> Mapping[str, Mapping[str, Any]]:
    """The JSON Schema of each option."""
    properties: dict[str, Any] = SendOptions.model_json_schema()["properties"]
    return properties
