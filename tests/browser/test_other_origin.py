"""A page that is not ours follows its tenant's jobs with a ticket, and nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import Complaints
from tests.browser.site import Site
from tests.support import wait_for

#: Opens a stream and notes what it says.
FOLLOW = """(url) => {
  window.events = [];
  window.states = [];
  const source = new EventSource(url);
  source.onopen = () => window.states.push("open");
  source.onerror = () => window.states.push("error");
  source.addEventListener("job", (message) => window.events.push(JSON.parse(message.data)));
}"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><link rel=icon href='data:,'><title>Somebody else's page</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def other_site(other_port: int) -> Iterator[int]:
    """A web server of somebody else; gives its port."""
    with ThreadingHTTPServer(("127.0.0.1", other_port), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield other_port
        server.shutdown()
        thread.join(5)


def statuses(page: Page) -> dict[str, list[str]]:
    """What the page has been told, per job."""
    told: dict[str, list[str]] = {}
    for event in page.evaluate("window.events"):
        seen = told.setdefault(event["id"], [])
        if seen[-1:] != [event["status"]]:
            seen.append(event["status"])
    return told


def test_a_page_with_a_ticket_follows_its_tenants_jobs_only(
    context: BrowserContext, site: Site, other_site: int
) -> None:
    key, others_key = site.api_key("ours"), site.api_key("theirs")
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{other_site}/")
    page.evaluate(FOLLOW, site.post("/events/tickets", {}, key)["url"])
    page.wait_for_function("window.states.includes('open')")

    theirs = site.send_sleep(0, others_key)
    ours = site.send_sleep(500, key)
    wait_for(lambda: statuses(page).get(ours, [""])[-1] == "COMPLETED", what="the page sees its job end")
    wait_for(lambda: site.status(theirs) == "COMPLETED", what="the other job ends")
    assert statuses(page) == {ours: ["PENDING", "RUNNING", "COMPLETED"]}


def test_a_ticket_for_one_job_shows_that_job(context: BrowserContext, site: Site, other_site: int) -> None:
    key = site.api_key("ours")
    job_id = site.send_sleep(500, key)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{other_site}/")
    page.evaluate(FOLLOW, site.post("/events/tickets", {"job": job_id}, key)["url"])
    site.send_sleep(0, key)
    wait_for(lambda: statuses(page).get(job_id, [""])[-1] == "COMPLETED", what="the page sees its job end")
    assert set(statuses(page)) == {job_id}


def test_a_page_of_an_origin_that_is_not_allowed_learns_nothing(
    context: BrowserContext, site: Site, other_site: int, complaints: Complaints
) -> None:
    complaints.expected = ("CORS", "net::ERR_FAILED")
    key = site.api_key("ours")
    site.send_sleep(0, key)
    page = context.new_page()
    page.goto(f"http://localhost:{other_site}/")  # the same server, but another origin
    page.evaluate(FOLLOW, site.post("/events/tickets", {}, key)["url"])
    page.wait_for_function("window.states.includes('error')")
    assert page.evaluate("window.states.includes('open')") is False
    assert page.evaluate("window.events") == []


def test_a_session_is_worth_nothing_on_a_page_of_another_origin(
    page: Page, context: BrowserContext, site: Site, other_site: int, complaints: Complaints
) -> None:
    complaints.expected = ("status of 401", "CORS", "net::ERR_FAILED")
    foreign = context.new_page()
    foreign.goto(f"http://127.0.0.1:{other_site}/")
    answer = foreign.evaluate(
        "url => fetch(url, {credentials: 'include'}).then(r => r.status, () => 'refused')", f"{site.url}/jobs"
    )
    assert answer == "refused"
