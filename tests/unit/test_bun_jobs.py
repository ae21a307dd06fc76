"""What a row of the Bun worker's table becomes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

import actors  # noqa: F401 - the job types
from actors.runtime.job_type import job_types
from dev.bun_jobs import GIVEN_UP, OldJob, Refused, past_of

ID = "3f0c2a34-93a8-4b8a-a0a5-6a6e1f0b1c11"
NAP = {"delayMs": 5}


def old(**fields: Any) -> OldJob:
    values = {
        "id": ID,
        "tenant_id": "acme",
        "type": "sleep",
        "payload": json.dumps(NAP),
        "status": "PENDING",
        "attempts": 0,
        "error": None,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, 678000),  # noqa: DTZ001 - as Prisma keeps it
        "updated_at": datetime(2026, 1, 2, 3, 5, 0),  # noqa: DTZ001
    }
    if "payload" in fields:
        fields["payload"] = json.dumps(fields["payload"])
    return OldJob(**{**values, **fields})


def brought(**fields: Any) -> dict[str, Any]:
    return past_of(old(**fields), job_types()).columns


def test_what_waits_there_waits_here() -> None:
    row = brought(attempts=1, error="HTTP 500")
    assert (row["id"], row["status"], row["attempts"], row["max_attempts"]) == (UUID(ID), "PENDING", 1, 3)
    assert json.loads(row["kwargs"]) == {"delay_ms": 5}
    assert (row["queue"], row["error"]) == ("default", "HTTP 500")
    assert [entry["message"] for entry in json.loads(row["errors"])] == ["HTTP 500"]
    assert datetime.fromisoformat(row["created_at"]) == datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    assert row["message_timestamp"] == 1767323045678


@pytest.mark.parametrize(("attempts", "status"), [(1, "PENDING"), (2, "PENDING"), (3, "FAILED")])
def test_what_ran_when_the_old_worker_ended_runs_again_if_an_attempt_is_left(attempts: int, status: str) -> None:
    row = brought(status="RUNNING", attempts=attempts)
    assert row["status"] == status
    assert "lost" in [entry["kind"] for entry in json.loads(row["errors"])]
    assert row["error"] == (GIVEN_UP if status == "FAILED" else None)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"payload": {"delayMs": -1}}, "/delayMs"),
        ({"payload": {"delayMs": 1, "x": 2}}, "/x"),
        ({"payload": [1]}, "sleep"),
        ({"type": "telegram"}, "no job type 'telegram'"),
        ({"attempts": 3}, GIVEN_UP),
    ],
)
def test_what_cannot_run_here_has_failed_and_says_why(fields: dict[str, Any], reason: str) -> None:
    past = past_of(old(**dict(fields)), job_types())
    assert past.columns["status"] == "FAILED"
    assert past.ended_because is not None
    assert reason in past.ended_because
    assert reason in past.columns["error"]
    given = fields.get("payload", NAP)
    kept = json.loads(past.columns["kwargs"])
    assert kept in (given, {"payload": given}, {"delay_ms": 5})


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
def test_the_past_is_kept_whatever_its_payload(status: str) -> None:
    past = past_of(old(status=status, payload={"anything": [1, None]}, attempts=2, error="x"), job_types())
    assert past.ended_because is None
    assert past.columns["status"] == status
    assert json.loads(past.columns["kwargs"]) == {"anything": [1, None]}


def test_an_id_that_is_no_uuid_is_kept_beside_the_new_one() -> None:
    row = brought(id="job-1")
    assert row["id"] == brought(id="job-1")["id"] != brought(id="job-2")["id"]
    assert json.loads(row["options"]) == {"original_message_id": "job-1"}


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant_id": ""},
        {"tenant_id": "x" * 101},
        {"status": "SLEEPING"},
        {"type": ""},
        {"payload": {"delayMs": 10**400}},
        {"status": "COMPLETED", "payload": {"text": "x" * 2_000_000}},
    ],
)
def test_what_cannot_be_kept_is_left_where_it_is(fields: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        brought(**fields)


def test_an_error_of_any_length_is_cut() -> None:
    assert len(brought(status="FAILED", error="e" * 10_000 + "\0")["error"]) == 500
