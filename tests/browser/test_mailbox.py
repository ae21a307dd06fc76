"""The development mailbox in a browser: the list keeps up, and what a mail brings along does nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect

from dev.services.mailbox.site import make_app
from dev.services.mailbox.store import Store
from tests.browser.conftest import PATIENCE_MS, Complaints
from tests.support import wait_for

HTML = """<!doctype html><h1>Your order</h1><a href="%s/static/mailbox.css">See it</a>
<img src="https://tracker.invalid/x.png" alt="tracked"><script>document.body.innerHTML = "owned"</script>
<form action="https://evil.invalid/"><button>Send</button></form>
"""


@pytest.fixture
def box(tmp_path: Path) -> Store:
    return Store(tmp_path / "mailbox")


@pytest.fixture
def mailbox(box: Store) -> Iterator[str]:
    """The running pages; gives their address."""
    server = uvicorn.Server(uvicorn.Config(make_app(box), port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(chromium: Browser, complaints: Complaints, mailbox: str) -> Iterator[Page]:
    """A narrow window on the empty mailbox."""
    context = chromium.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints.listen(page)
    page.goto(mailbox)
    yield page
    context.close()


def put(box: Store, subject: str, html: str) -> None:
    head = f"From: shop@example.com\r\nSubject: {subject}\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    box.keep("shop@example.com", ["eve@example.net"], f"{head}{html}".encode())


def test_a_mail_appears_and_is_harmless(page: Page, box: Store, mailbox: str, complaints: Complaints) -> None:
    complaints.expected = ("tracker.invalid", "Blocked script execution", "Blocked form submission")
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    expect(page.get_by_text("Nothing has been sent yet")).to_be_visible()
    put(box, "Your order", HTML % mailbox)
    page.get_by_role("link", name="Your order").click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Your order")).to_be_visible()
    expect(frame.get_by_alt_text("tracked")).to_be_attached()
    frame.get_by_role("button", name="Send").click()
    expect(frame.get_by_role("heading", name="Your order")).to_be_visible()
    assert [url for url in asked if not url.startswith(mailbox) and "tracker" not in url] == []
    with page.context.expect_page() as opened:
        frame.get_by_role("link", name="See it").click()
    expect(opened.value).to_have_url(f"{mailbox}/static/mailbox.css")
    for refused in complaints.expected:
        assert any(refused in said for said in complaints), refused
    page.get_by_role("link", name="All mail").click()
    page.get_by_role("button", name="Empty the mailbox").click()
    expect(page.get_by_text("Nothing has been sent yet")).to_be_visible()


def test_a_page_is_as_wide_as_the_window(page: Page, box: Store, mailbox: str) -> None:
    put(box, "x" * 200, f"<table width=2000><tr><td>{'y' * 3000}</table>")
    page.goto(f"{mailbox}/messages/{box.ids()[0]}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.goto(mailbox)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
