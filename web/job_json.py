"""A job as the API shows it (DESIGN section 9, "A job in JSON")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from actors.runtime.feed import timestamp
from actors.runtime.job_type import payload_of


def job_path(job_id: UUID | str) -> str:
    """Where the API has this job."""
    return f"/jobs/{job_id}"


def job_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of :data:`models.queries.JOB_COLUMNS` (``row._mapping``) as JSON data; times RFC 3339 in UTC."""
    path = job_path(row["id"])
    return {
        "id": str(row["id"]),
        "type": row["actor"],
        "queue": row["queue"],
        "status": row["status"],
        "attempts": row["attempts"],
        "max_attempts": row["max_attempts"],
        "crashes": row["crashes"],
        "priority": row["priority"],
        "run_at": timestamp(row["run_at"]),
        "unique_key": row["unique_key"],
        "payload": payload_of(row["actor"], row["args"], row["kwargs"]),
        "progress": row["progress"],
        "result": row["result"],
        "result_error": row["result_error"],
        "error": row["error"],
        "errors": row["errors"],
        "log": row["log"],
        "version": row["version"],
        "created_at": timestamp(row["created_at"]),
        "started_at": timestamp(row["started_at"]),
        "finished_at": timestamp(row["finished_at"]),
        "cancel_requested_at": timestamp(row["cancel_requested_at"]),
        "updated_at": timestamp(row["updated_at"]),
        "links": {
            "self": path,
            "result": f"{path}/result",
            "events": f"{path}/events",
            "cancel": f"{path}/cancel",
            "retry": f"{path}/retry",
        },
    }


def sent_json(row: Mapping[str, Any], *, duplicate: bool) -> dict[str, Any]:
    """A job as its sender is answered; ``duplicate``: it is an older one with the same unique key."""
    return job_json(row) | ({"duplicate": True} if duplicate else {})


def etag(row: Mapping[str, Any]) -> str:
    """The job's entity tag: its version rises with every change that is shown."""
    return f'"{row["version"]}"'
