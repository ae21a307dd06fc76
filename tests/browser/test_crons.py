"""The page of schedules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Engine, insert, select, text

from models.tables import jobs, schedules, ticks
from tests.browser.mixed_jobs import uuid7
from tests.browser.site import Site
from tests.integration.cron_support import declare


def store_crons(engine: Engine) -> None:
    """A schedule in every state, one of them with twenty runs; no process of the test knows their actors."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    declare(engine, "default", "city-stats", actor="update-stats", expression="*/15 * * * *", tz="Europe/Vienna",
            kwargs='{"city_slug": "vienna"}', options='{"priority": 5}', overlap="skip",
            next_tick_at=now + timedelta(minutes=15))  # fmt: skip
    declare(engine, "default", "nightly", actor="nightly", expression="0 3 * * *", tz="Europe/Vienna", missed="all",
            overlap="queue", next_tick_at=now + timedelta(hours=9))  # fmt: skip
    declare(engine, "default", "never-made", actor="gone", next_tick_at=now - timedelta(hours=2))
    declare(engine, "default", "old-report", actor="old-report")
    declare(engine, "default", "paused-import", actor="import", expression="0 */6 * * mon-fri", missed="skip")
    statuses = ["RUNNING", "COMPLETED", "COMPLETED", "FAILED", "COMPLETED", "CANCELLED", "COMPLETED"]
    made: list[dict[str, Any]] = []
    rows = []
    for n in range(20):
        at, status = now - timedelta(minutes=15 * n), statuses[n % 7] if n else "RUNNING"
        told = {"tenant_id": "default", "schedule": "city-stats", "tick_at": at, "outcome": "sent", "reason": None,
                "job_id": None, "by_hand": n == 2}  # fmt: skip
        if n in (4, 5):
            told |= {"outcome": "skipped", "reason": "the run before had not ended"}
        elif n == 9:
            told |= {
                "outcome": "skipped",
                "reason": "missed, as all since 2026-01-01 00:15 UTC; one run makes up for all",
            }
        else:
            told["job_id"] = job_id = uuid7(at)
            rows.append(_job(job_id, status, at))
        made.append(told)
    with engine.connect() as connection:
        connection.execute(insert(jobs), rows)
        connection.execute(insert(ticks), made)
        connection.execute(text("UPDATE callboard.schedules SET paused_at = now() WHERE name = 'paused-import'"))
        connection.execute(text("UPDATE callboard.schedules SET retired_at = now() WHERE name = 'old-report'"))


def _job(job_id: UUID, status: str, at: datetime) -> dict[str, Any]:
    lease = {"worker_id": uuid4(), "attempt_token": uuid4()} if status == "RUNNING" else {}
    return {
        "id": job_id, "tenant_id": "default", "actor": "update-stats", "queue": "default", "args": [], "kwargs": {},
        "options": {}, "message_timestamp": 0, "status": status, "attempts": 1, "run_at": at, "created_at": at,
        "worker_id": None, "attempt_token": None, **lease,
        "error": "OperationalError: the server closed the connection" if status == "FAILED" else None,
        "finished_at": at if status not in ("RUNNING", "PENDING") else None,
    }  # fmt: skip


def paused(site: Site, name: str) -> bool:
    with site.engine.connect() as connection:
        return connection.execute(select(schedules.c.paused_at).where(schedules.c.name == name)).scalar() is not None


def test_crons_are_found_read_paused_and_resumed(page: Page, site: Site) -> None:
    store_crons(site.engine)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Crons").click()
    expect(page.get_by_role("heading", name="Crons")).to_be_visible()
    card = page.locator("#city-stats")
    expect(card).to_contain_text("*/15 * * * *")
    card.get_by_text("Runs and settings").click()
    expect(card.locator(".runs li")).to_have_count(20)
    expect(card.locator(".coming li")).to_have_count(5)
    expect(card.locator(".runs")).to_contain_text("the run before had not ended")
    card.get_by_role("button", name="Pause").click()
    expect(page).to_have_url(f"{site.url}/board/crons#city-stats")
    assert paused(site, "city-stats")
    expect(card.get_by_role("heading", name="city-stats")).to_contain_text("paused")
    card.get_by_role("button", name="Resume").click()
    expect(card.get_by_role("button", name="Pause")).to_be_visible()
    assert not paused(site, "city-stats")
    expect(page.locator("#never-made")).to_contain_text("Overdue since")
    expect(page.locator("#old-report").get_by_role("button")).to_have_count(0)


def test_a_refused_run_says_why(page: Page, site: Site, complaints: Any) -> None:
    complaints.expected = ("409",)
    store_crons(site.engine)
    page.goto(f"{site.url}/board/crons")
    page.locator("#nightly").get_by_role("button", name="Run now").click()
    expect(page.locator("#nightly").get_by_role("alert")).to_contain_text("not known here")
    page.goto(page.url)
    expect(page).to_have_url(f"{site.url}/board/crons")


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_works_without_scripts(site: Site, chromium: Any, width: int) -> None:
    store_crons(site.engine)
    context = chromium.new_context(viewport={"width": width, "height": 800}, java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(site.sign_in_link())
        page.goto(f"{site.url}/board/crons")
        page.locator("#city-stats summary").click()
        page.locator("#paused-import").get_by_role("button", name="Resume").click()
        expect(page.locator("#paused-import").get_by_role("button", name="Pause: ")).to_be_visible()
        box = page.locator("main").bounding_box()
        assert box is not None
        assert box["width"] <= width
        assert all(card["x"] + card["width"] <= width for card in [page.locator("#city-stats").bounding_box() or {}])
    finally:
        context.close()


def test_no_schedules(page: Page, site: Site) -> None:
    """Of a tenant of its own: the default one has those of the sample domains."""
    site.api_key("unscheduled")
    page.goto(site.sign_in_link("unscheduled"))
    page.goto(f"{site.url}/board/crons")
    expect(page.get_by_role("heading", name="No schedules")).to_be_visible()
