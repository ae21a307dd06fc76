"""Between a job row and the Dramatiq message that carries it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from dramatiq import Message
from dramatiq.errors import DecodeError

from actors.runtime.keys import redis_id

#: The option that marks a message as ours: ``{"dispatch": n, "offered_ms": t}``. A marked message has a row, or
#: had one; only unmarked ones are adopted when fetched.
MARK = "callboard"
#: Options that describe one delivery or one attempt, not the job: they never enter the row.
TRANSIENT = frozenset(
    {MARK, "redis_message_id", "eta", "retries", "traceback", "requeue_timestamp", "duplicate", "scheduled_at"}
)
#: Seed for the ids of messages whose own id is no UUID.
_FOREIGN_IDS = uuid5(NAMESPACE_URL, "callboard:message-id")


class Offer(NamedTuple):
    """One message ready to be pushed."""

    queue: str
    band: int
    redis_id: str
    data: bytes


def job_id_of(message_id: str) -> tuple[UUID, bool]:
    """The job id of a Dramatiq message id; a foreign one becomes its uuid5.

    Returns: the id, and whether the message's own id had to be replaced.
    """
    try:
        identifier = UUID(message_id)
    except (ValueError, AttributeError, TypeError):
        return uuid5(_FOREIGN_IDS, str(message_id)), True
    return identifier, str(identifier) != message_id


def tick_id_of(actor_name: str, scheduled_at: str) -> UUID | None:
    """The id of a tick that periodiq sent: one actor, one UTC minute, one job, however many schedulers run.

    Args:
      scheduled_at: periodiq's option, an ISO 8601 time with an offset. Returns None when it is none.
    """
    try:
        tick = datetime.fromisoformat(scheduled_at).astimezone(UTC).replace(second=0, microsecond=0)
    except (TypeError, ValueError):
        return None
    return uuid5(_FOREIGN_IDS, f"tick:{actor_name}:{tick.isoformat()}")


def decode(data: bytes) -> Message[Any]:
    """A message as it was found in Redis, with every field of the kind that it should be.

    Raises:
      DecodeError: it is none.
    """
    message: Message[Any] = Message.decode(data)
    fields: tuple[tuple[object, type], ...] = (
        (message.queue_name, str),
        (message.actor_name, str),
        (message.kwargs, dict),
        (message.options, dict),
        (message.message_id, str),
        (message.message_timestamp, int),
    )
    if any(not isinstance(value, kind) for value, kind in fields):
        raise DecodeError("Failed to decode message: a field is of the wrong kind.", data, None)  # type: ignore[no-untyped-call]
    return message


def band_of(priority: int) -> int:
    """-1, 0 or 1: which of a queue's lists a priority belongs to."""
    return (priority > 0) - (priority < 0)


def offer_of(row: Mapping[str, Any]) -> Offer:
    """The message of a row of :data:`models.ledger.MESSAGE_COLUMNS`, under its latest dispatch number."""
    offered: datetime | None = row["offered_at"]
    message: Message[Any] = Message(
        queue_name=row["queue"],
        actor_name=row["actor"],
        args=tuple(row["args"]),
        kwargs=row["kwargs"],
        options={
            **row["options"],
            "redis_message_id": redis_id(row["id"], row["dispatch"]),
            MARK: {
                "dispatch": row["dispatch"],
                "offered_ms": int(offered.timestamp() * 1000) if offered else 0,
                "band": band_of(row["priority"]),
            },
        },
        message_id=str(row["id"]),
        message_timestamp=row["message_timestamp"],
    )
    return Offer(row["queue"], band_of(row["priority"]), redis_id(row["id"], row["dispatch"]), message.encode())
