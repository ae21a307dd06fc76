"""A dozen jobs in every state, straight into the table: what nobody wants to wait for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Engine, insert

from models.tables import jobs, workers

_TRACEBACK = """Traceback (most recent call last):
  File "actors/webhook.py", line 66, in call
    raise WebhookFailed(f"{status} from {host}")
actors.webhook.WebhookFailed: 503 Service Unavailable from hooks.example.org
"""


def uuid7(moment: datetime) -> UUID:
    """An id as of that moment."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (0x7 << 76) | (uuid4().int & ((1 << 76) - 1)))


def store_mixed_jobs(engine: Engine) -> tuple[UUID, UUID]:
    """Store 13 jobs of the default tenant; returns the failed webhook and a running job."""
    now = datetime.now(UTC)
    worker = uuid4()

    def job(actor: str, status: str, age_s: float, took_s: float = 1, **values: Any) -> dict[str, Any]:
        created = now - timedelta(seconds=age_s)
        started = None if status == "PENDING" and not values.get("attempts") else created + timedelta(seconds=0.1)
        ended = created + timedelta(seconds=0.1 + took_s) if status in ("COMPLETED", "FAILED", "CANCELLED") else None
        lease = {"worker_id": worker, "attempt_token": uuid4()} if status == "RUNNING" else {}
        row = {
            "id": uuid7(created), "tenant_id": "default", "actor": actor, "queue": "default", "priority": 0,
            "args": [], "kwargs": {"delay_ms": 20_000}, "options": {}, "message_timestamp": 0, "status": status,
            "attempts": 1, "max_attempts": 3, "crashes": 0, "run_at": created, "worker_id": None, "attempt_token": None,
            "cancel_requested_at": None, "dispatch": 1, "offered_at": now, "result": None, "error": None, "errors": [],
            "progress": None, "log": [], "version": 3, "created_at": created, "started_at": started,
            "finished_at": ended, "updated_at": ended or now, "unique_key": None,
        }  # fmt: skip
        return row | lease | values

    def failure(number: int, after_s: float, kind: str = "failed", message: str = "503 Service Unavailable") -> Any:
        ended = now - timedelta(seconds=400 - after_s)
        return {
            "attempt": number, "kind": kind, "class": "WebhookFailed" if kind == "failed" else None,
            "message": f"{message} from hooks.example.org" if kind == "failed" else "worker lost",
            "traceback": _TRACEBACK if kind == "failed" else None, "worker": str(worker),
            "started_at": (ended - timedelta(seconds=0.42 * number)).isoformat(), "ended_at": ended.isoformat(),
        }  # fmt: skip

    later = now + timedelta(hours=3)
    hook = {"url": "https://hooks.example.org/orders", "method": "POST", "headers": None, "body": {"order": 4711}}
    unavailable = "WebhookFailed: 503 Service Unavailable from hooks.example.org"
    said = [
        {"at": (now - timedelta(seconds=400 - s)).timestamp(), "attempt": s // 3 + 1, "text": text}
        for s, text in ((0, "connecting to hooks.example.org"), (1, "sent 214 bytes"), (6, "connecting again"))
    ]
    failed = job(
        "webhook", "FAILED", 400, 9, attempts=3, kwargs=hook, error=unavailable, unique_key="order-4711",
        errors=[failure(1, 0.5), failure(2, 3, "lost"), failure(3, 9)], log=said, version=9,
    )  # fmt: skip
    running = job("sleep", "RUNNING", 14, progress={"current": 13_500, "total": 20_000, "message": "sleeping"})
    made = [
        job("webhook", "PENDING", 1, attempts=0, kwargs=hook, offered_at=now),
        job("webhook", "RUNNING", 3, kwargs=hook),
        running,
        job("import-orders", "RUNNING", 41, progress={"current": 12_000, "total": None, "message": "reading rows"}),
        job("webhook", "PENDING", 65, kwargs=hook, error=unavailable, errors=[failure(1, 1)],
            run_at=now + timedelta(seconds=90), offered_at=None),
        job("nightly-report", "PENDING", 130, attempts=0, run_at=later, offered_at=None),
        job("sleep", "COMPLETED", 150, 5, result={"slept_ms": 5_000}),
        job("webhook", "COMPLETED", 200, 0.3, attempts=2, kwargs=hook, result={"status": 200, "body": "ok"}),
        failed,
        job("sleep", "CANCELLED", 600, 4, kwargs={"delay_ms": 60_000}),
        job("import-orders", "FAILED", 3_000, attempts=3, crashes=3,
            error="worker process died 3 times while running this job"),
        job("nightly-report", "COMPLETED", 9_000, 64),
        job("sleep", "COMPLETED", 90_000, 1),
    ]  # fmt: skip
    with engine.connect() as connection:
        # Alive for as long as a test lasts: nobody rescues what its jobs look like.
        signed_in = {"id": worker, "host_id": "elsewhere", "hostname": "elsewhere", "pid": 1, "threads": 4}
        connection.execute(insert(workers).values(queues=["default"], version="0", beat_at=later, **signed_in))
        connection.execute(insert(jobs), made)
    return failed["id"], running["id"]
