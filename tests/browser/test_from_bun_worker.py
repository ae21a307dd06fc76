"""The script that replaces the WebSocket client, as docs/how-to/from-bun-worker.md shows it."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.acceptance.pages import DocumentedPage
from tests.browser.site import Site
from tests.support import wait_for


def test_the_script_on_the_page_follows_jobs(page: Page, site: Site) -> None:
    script = DocumentedPage("how-to/from-bun-worker.md").scripts["page"]
    key = site.api_key("moved")
    page.goto(f"{site.url}/")
    ticket = site.post("/events/tickets", {}, key)
    page.evaluate(f"(ticket) => {{ {script}; window.latest = latest; }}", ticket)
    job_id = site.send_sleep(100, key)
    wait_for(
        lambda: page.evaluate("(id) => window.latest.get(id)?.status", job_id) == "COMPLETED",
        what="the script sees the job end",
    )
