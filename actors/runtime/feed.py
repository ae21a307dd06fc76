"""The feed's producer side: what happened to jobs, appended to one bounded Redis stream.

An entry holds every change of one ledger flush, as a JSON array in its field ``e``; each change names its tenant
in ``t`` and is otherwise the event of DESIGN section 9. Losing an entry is harmless: web processes re-read what
they have shown (DESIGN section 10).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from models.settings import Settings

#: Entries that the stream keeps, about; a client that was away for longer gets a reset and a snapshot.
STREAM_LENGTH = 20_000
#: Changes per entry at most, so that one bulk insert does not make an entry of megabytes.
ENTRY_CHANGES = 500


def stream_key(settings: Settings) -> str:
    """The stream's key; the schema is part of it, so that two Callboards on one Redis do not meet."""
    return f"callboard:{settings.db_schema}:events"


def timestamp(value: datetime | None) -> str | None:
    """RFC 3339 in UTC, or None."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value else None


def event_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The event for a row of :data:`models.ledger.EVENT_COLUMNS` (``row._mapping``), without its tenant."""
    return {
        "id": str(row["id"]),
        "type": row["actor"],
        "status": row["status"],
        "attempts": row["attempts"],
        "progress": row["progress"],
        "error": row["error"],
        "version": row["version"],
        "at": timestamp(row["updated_at"]),
    }


def entries(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The stream entries that announce these rows."""
    changes = [{"t": row["tenant_id"], **event_of(row)} for row in rows]
    chunks = (changes[i : i + ENTRY_CHANGES] for i in range(0, len(changes), ENTRY_CHANGES))
    return [{"e": json.dumps(chunk, separators=(",", ":"))} for chunk in chunks]
