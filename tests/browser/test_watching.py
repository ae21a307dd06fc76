"""Watching jobs: nothing here reloads a page, and what is shown is right whatever was cut in between."""

from __future__ import annotations

import json
import signal

from playwright.sync_api import BrowserContext, Page, expect

from actors.runtime.feed import stream_key
from models.settings import Settings
from tests.browser.conftest import SERVER_AWAY, Complaints
from tests.browser.site import Site
from tests.support import wait_for
from web.board import PAGE_JOBS

#: Notes every status that a place shows, from now on.
NOTE_STATUSES = """(place) => {
  window.statuses = [];
  const note = () => {
    const status = document.querySelector(place)?.dataset.status;
    if (status && status !== window.statuses.at(-1)) window.statuses.push(status);
  };
  note();
  new MutationObserver(note).observe(document, {subtree: true, childList: true, attributes: true});
}"""


def connection(page: Page, state: str, timeout: float = 10_000) -> None:
    """Wait until the page says so of its connection."""
    expect(page.locator("#connection")).to_have_attribute("data-state", state, timeout=timeout)


def chip(page: Page, job_id: str, status: str, timeout: float = 10_000) -> None:
    """Wait until the board shows a job in a status."""
    row = page.locator(f'tr[data-id="{job_id}"] .chip')
    expect(row).to_have_text(status, timeout=timeout)
    expect(row).to_have_attribute("data-status", status)


def stay(page: Page) -> None:
    """Mark the document, so that a reload would be noticed."""
    page.evaluate("window.stayed = true")


def has_stayed(page: Page) -> bool:
    """Whether this is still the same document."""
    return page.evaluate("window.stayed === true") is True


def test_a_job_sent_by_the_form_moves_before_ones_eyes(page: Page, context: BrowserContext, site: Site) -> None:
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    connection(page, "live")
    stay(page)
    page.evaluate(NOTE_STATUSES, "tbody .chip")

    form = context.new_page()
    form.goto(f"{site.url}/send?type=sleep")
    form.get_by_label("delayMs").fill("1500")
    form.get_by_text("Options").click()
    form.get_by_label("delay", exact=True).fill("1000")
    form.get_by_role("button", name="Send sleep").click()
    form.wait_for_url("**/board/jobs/*")
    stay(form)
    form.evaluate(NOTE_STATUSES, "#status .chip")
    job_id = form.url.rpartition("/")[2]

    chip(page, job_id, "COMPLETED")
    expect(form.locator("#status .chip")).to_have_text("COMPLETED")
    for watched in (page, form):
        assert watched.evaluate("window.statuses") == ["PENDING", "RUNNING", "COMPLETED"]
    expect(form.locator("#result")).to_contain_text('"slept_ms": 1500')
    expect(form.locator(".fact-attempts")).to_have_text("1 of 3")
    expect(form.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.locator('#counts a[data-status="COMPLETED"] .count')).to_have_text("1")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_hidden()
    assert has_stayed(page)
    assert has_stayed(form)


def test_progress_is_shown_while_a_job_runs(page: Page, site: Site) -> None:
    connection(page, "live")
    job_id = site.send_sleep(60_000, site.api_key())
    bar = page.locator(f'tr[data-id="{job_id}"] progress')
    expect(bar).to_be_visible()
    wait_for(lambda: bar.evaluate("bar => bar.value / bar.max") > 0.01, what="the bar moves")
    expect(page.locator(f'tr[data-id="{job_id}"] .meter-text')).to_contain_text("of 60,000")
    site.post(f"/jobs/{job_id}/cancel", {}, site.api_key())
    chip(page, job_id, "CANCELLED")
    expect(bar).to_be_hidden()


def test_after_the_server_was_away_the_board_is_right(page: Page, site: Site, complaints: Complaints) -> None:
    complaints.expected = SERVER_AWAY
    connection(page, "live")
    stay(page)
    running = site.send_sleep(3_000, site.api_key())
    chip(page, running, "RUNNING")

    site.web.stop(signal.SIGKILL)
    connection(page, "reconnecting")
    sent_meanwhile = site.send_past_the_web(10)
    wait_for(lambda: site.status(running) == site.status(sent_meanwhile) == "COMPLETED", what="both jobs end")
    connection(page, "stale", timeout=15_000)
    chip(page, running, "RUNNING")  # what it said when the connection went, marked stale

    site.start_web()
    connection(page, "live")
    chip(page, running, "COMPLETED", timeout=3_000)
    chip(page, sent_meanwhile, "COMPLETED", timeout=3_000)
    assert has_stayed(page)
    later = site.send_sleep(10, site.api_key())
    chip(page, later, "COMPLETED")


def test_after_the_network_was_away_the_board_is_right(
    page: Page, context: BrowserContext, site: Site, complaints: Complaints
) -> None:
    complaints.expected = SERVER_AWAY
    connection(page, "live")
    stay(page)
    key = site.api_key()
    running = site.send_sleep(2_000, key)
    chip(page, running, "RUNNING")
    context.set_offline(True)
    wait_for(lambda: site.status(running) == "COMPLETED", what="the job ends")
    context.set_offline(False)
    chip(page, running, "COMPLETED")
    connection(page, "live")
    assert has_stayed(page)


def test_a_running_job_is_cancelled_from_its_page(page: Page, site: Site) -> None:
    job_id = site.send_sleep(60_000, site.api_key())
    page.goto(f"{site.url}/board/jobs/{job_id}")
    connection(page, "live")
    expect(page.locator("#status .chip")).to_have_text("RUNNING")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_url(f"{site.url}/board/jobs/{job_id}")
    stay(page)
    expect(page.locator("#status .chip")).to_have_text("CANCELLED", timeout=3_000)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    assert has_stayed(page)
    assert site.status(job_id) == "CANCELLED"

    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#status .chip")).to_have_text("RUNNING")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()


def test_a_button_that_comes_too_late_is_refused_in_words(page: Page, site: Site, complaints: Complaints) -> None:
    complaints.expected = ("status of 409", "net::ERR_FAILED")
    job_id = site.send_sleep(60_000, site.api_key())
    page.goto(f"{site.url}/board/jobs/{job_id}")
    expect(page.locator("#status .chip")).to_have_text("RUNNING")
    page.route("**/events", lambda route: route.abort())  # this page learns of nothing
    page.reload()
    site.post(f"/jobs/{job_id}/cancel", {}, site.api_key())
    wait_for(lambda: site.status(job_id) == "CANCELLED", what="the job is cancelled")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("The job is CANCELLED")
    expect(page).to_have_url(f"{site.url}/board/jobs/{job_id}")  # a reload asks nothing again


def test_a_board_of_one_status_holds_only_that(page: Page, site: Site) -> None:
    key = site.api_key()
    page.goto(f"{site.url}/?status=RUNNING")
    connection(page, "live")
    stay(page)
    job_id = site.send_sleep(2_000, key)
    chip(page, job_id, "RUNNING")
    expect(page.locator(f'tr[data-id="{job_id}"]')).to_have_count(0)
    expect(page.get_by_role("heading", name="Nothing here")).to_be_visible()
    assert has_stayed(page)


def test_what_events_say_is_text_and_old_versions_are_ignored(
    page: Page, site: Site, settings: Settings, redis: object
) -> None:
    connection(page, "live")
    job_id = site.send_sleep(10, site.api_key())
    chip(page, job_id, "COMPLETED")
    evil = '<img src=x onerror="window.taken=1"><script>window.taken=1</script>'
    event = {
        "t": "default", "id": job_id, "type": "sleep", "status": "FAILED", "attempts": 1,
        "progress": None, "error": evil, "version": 1_000, "at": "2030-01-01T00:00:00Z",
    }  # fmt: skip
    older = {**event, "status": "RUNNING", "error": "older", "version": 999}
    for entry in (event, older, event):
        redis.xadd(stream_key(settings), {"e": json.dumps([entry])})  # type: ignore[attr-defined]
    row = page.locator(f'tr[data-id="{job_id}"]')
    expect(row.locator(".error")).to_have_text(evil)
    chip(page, job_id, "FAILED")
    assert page.evaluate("window.taken") is None


def test_a_burst_of_jobs_ends_with_a_full_page_and_right_counts(page: Page, site: Site) -> None:
    connection(page, "live")
    stay(page)
    key = site.api_key()
    sent = [site.send_sleep(0, key) for _ in range(PAGE_JOBS + 20)]
    finished = page.locator('#counts a[data-status="COMPLETED"] .count')
    expect(finished).to_have_text(str(len(sent)), timeout=20_000)
    shown = page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.dataset.id)")
    assert shown == sorted(sent, reverse=True)[:PAGE_JOBS]
    expect(page.locator('tbody .chip[data-status="COMPLETED"]')).to_have_count(PAGE_JOBS)
    expect(page.get_by_role("link", name="Older")).to_be_visible()
    assert has_stayed(page)


def test_signing_out_elsewhere_is_noticed(page: Page, context: BrowserContext, complaints: Complaints) -> None:
    complaints.expected = ("status of 401",)
    connection(page, "live")
    other = context.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
    connection(page, "signed-out")
    expect(page.locator("#connection")).to_have_text("Signed out: reload to sign in")


def test_leaving_and_coming_back_by_the_history(page: Page, site: Site) -> None:
    connection(page, "live")
    page.get_by_role("link", name="Send", exact=True).click()
    expect(page.get_by_role("heading", name="Send a job")).to_be_visible()
    job_id = site.send_sleep(10, site.api_key())
    wait_for(lambda: site.status(job_id) == "COMPLETED", what="the job ends")
    page.go_back()
    connection(page, "live")
    chip(page, job_id, "COMPLETED")
