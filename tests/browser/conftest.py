"""A running site per test, and pages that remember every complaint of the browser."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import Engine

from tests.browser.site import Site, free_port

#: Milliseconds that playwright waits for anything.
PATIENCE_MS = 10_000
expect.set_options(timeout=PATIENCE_MS)
#: What Chromium prints when a server is away; only tests that take it away expect it.
SERVER_AWAY = ("net::ERR_CONN", "net::ERR_INTERNET_DISCONNECTED", "net::ERR_EMPTY", "net::ERR_INCOMPLETE")


@pytest.fixture
def other_port() -> int:
    """Where a page of another origin may live."""
    return free_port()


@pytest.fixture
def site(environment: dict[str, str], engine: Engine, other_port: int, tmp_path: Path) -> Iterator[Site]:
    """Web and worker, running; a page on ``other_port`` may open event streams."""
    allowed = {**environment, "CALLBOARD_CORS_ORIGINS": f"http://127.0.0.1:{other_port}"}
    running = Site(allowed, engine, tmp_path)
    try:
        running.worker.start()
        running.start_web()
        yield running
        running.worker.check()
    finally:
        running.web.stop()
        running.worker.stop(signal.SIGKILL)  # it would wait for the jobs that it runs


class Complaints(list[str]):
    """What the browser complained about; every test ends with none."""

    #: Parts of complaints that the test itself brings about.
    expected: tuple[str, ...] = ()

    def listen(self, page: Page) -> None:
        """Remember errors and warnings of a page: exceptions, refused resources, CSP violations."""
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", lambda message: self.append(message.text) if message.type in ("error", "warning") else None)

    def left(self) -> list[str]:
        """What nobody expected."""
        return [said for said in self if not any(part in said for part in self.expected)]


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    """Checked at the end of the test."""
    heard = Complaints()
    yield heard
    assert heard.left() == []


@pytest.fixture
def context(chromium: Browser, complaints: Complaints, site: Site) -> Iterator[BrowserContext]:
    """A browser of one's own, with patience; gone before the site is."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    context.on("page", complaints.listen)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Page:
    """The board, by the one-time link."""
    page = context.new_page()
    page.goto(site.sign_in_link())
    return page
