"""Reading the board: without JavaScript, in the dark, on a telephone, by the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import PATIENCE_MS, Complaints
from tests.browser.mixed_jobs import store_mixed_jobs
from tests.browser.site import Site

#: Every text whose contrast with what is behind it is below WCAG's AA (4.5:1, 3:1 for large type).
FAINT_TEXTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("noscript, option")) continue;
    const style = getComputedStyle(element);
    const [one, two] = [luminance(rgba(style.color)), luminance(behind(element))];
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const size = parseFloat(style.fontSize);
    if (contrast < (size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5)) {
      faint.push(`${walker.currentNode.data.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
    }
  }
  return faint;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_legible_at_every_width(
    page: Page, site: Site, tmp_path: Path, scheme: str, complaints: Complaints
) -> None:
    complaints.expected = ("status of 422",)
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    page.screenshot(path=tmp_path / f"empty-{scheme}.png", full_page=True)
    assert page.evaluate(FAINT_TEXTS) == []
    failed, running = store_mixed_jobs(site.engine)
    for name, path in {
        "board": "/",
        "failed": f"/board/jobs/{failed}",
        "running": f"/board/jobs/{running}",
        "send": "/send?type=webhook",
        "sign-in": "/sign-in",
    }.items():
        page.goto(f"{site.url}{path}")
        if name == "send":
            page.get_by_label("url").fill("http://[/<b>")
            page.get_by_label("body").fill("{")
            page.get_by_text("Options").click()
            page.get_by_role("button", name="Send webhook").click()
            expect(page.locator(".fault")).to_have_count(2)
        for width in (1280, 768, 390, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} overflows {width} px"
            picture = tmp_path / f"{name}-{scheme}-{width}.png"
            page.screenshot(path=picture, full_page=True)
            assert picture.stat().st_size > 5_000
            assert page.evaluate(FAINT_TEXTS) == [], f"{name} at {width} px"


@pytest.fixture
def plain_page(chromium: Browser, complaints: Complaints, site: Site) -> Iterator[Page]:
    """A browser that runs no script, signed in."""
    context: BrowserContext = chromium.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    context.on("page", complaints.listen)
    page = context.new_page()
    page.goto(site.sign_in_link())
    yield page
    context.close()


def test_everything_works_without_javascript(plain_page: Page, site: Site, complaints: Complaints) -> None:
    page = plain_page
    complaints.expected = ("status of 422",)
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    assert "<noscript>" in page.content()  # playwright's switch leaves it invisible
    store_mixed_jobs(site.engine)
    page.reload()
    expect(page.get_by_role("row")).to_have_count(14)  # with the head's
    expect(page.get_by_role("table", name="Jobs, newest first")).to_contain_text("worker process died 3 times")
    page.get_by_role("link", name="Failed 2").click()
    expect(page.get_by_role("row")).to_have_count(3)
    page.get_by_role("link", name="webhook").first.click()

    page.get_by_role("link", name="Send a job").click()
    page.get_by_role("navigation", name="Job type").get_by_role("link", name="webhook").click()
    page.get_by_label("url").fill("ftp://example.org/?<b>")
    page.get_by_role("button", name="Send webhook").click()
    expect(page.locator("#p-url")).to_have_value("ftp://example.org/?<b>")
    expect(page.locator("#p-url")).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".fault")).to_have_count(1)

    page.get_by_role("navigation", name="Job type").get_by_role("link", name="sleep").click()
    page.get_by_label("delayMs").fill("60000")
    page.get_by_role("button", name="Send sleep").click()
    expect(page.locator("#status")).to_have_text("PENDING" if page.get_by_text("PENDING").count() else "RUNNING")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_contain_text("CANCEL", ignore_case=True)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_keyboard_reaches_the_content_and_sees_where_it_is(page: Page, site: Site) -> None:
    store_mixed_jobs(site.engine)
    page.reload()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    send = page.get_by_role("link", name="Send a job")
    expect(send).to_be_focused()
    assert send.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.locator("tbody a").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#job")).to_be_visible()


def test_times_are_told_by_the_servers_clock(page: Page, site: Site) -> None:
    site.send_sleep(0, site.api_key())
    page.add_init_script("const real = Date.now; Date.now = () => real() - 3_600_000;")  # an hour behind
    page.reload()
    expect(page.locator("tbody .c-age time").first).to_have_text("2 s ago")
