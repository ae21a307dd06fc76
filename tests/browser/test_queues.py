"""The queues in a browser: legible everywhere, no button, and nothing that the page's own policy refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Complaints
from tests.browser.mixed_jobs import store_mixed_jobs
from tests.browser.site import Site
from tests.browser.test_reading import FAINT_TEXTS


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_queues_are_legible_at_every_width(
    page: Page, site: Site, tmp_path: Path, scheme: str, complaints: Complaints
) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    failed, _ = store_mixed_jobs(site.engine)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Queues").click()
    expect(page.get_by_role("region", name="Jobs by state").get_by_role("row").nth(1)).to_contain_text("default")
    pages = {"overview": page.url}
    page.locator(".queues").get_by_role("link", name="default").click()
    expect(page.locator(".queues tbody tr")).to_have_count(4)
    page.get_by_role("link", name="Delayed (2)").click()
    expect(page.locator(".queues tbody tr")).to_have_count(2)
    page.get_by_role("link", name="Failed (2)").click()
    pages["failed"] = page.url
    page.locator(f'a[href$="{failed}"]').click()
    expect(page.get_by_role("heading", name=f"Job {failed}")).to_be_visible()
    pages["job"] = page.url
    for name, address in pages.items():
        page.goto(address)
        expect(page.locator(".queues button")).to_have_count(0)
        for width in (1280, 768, 390, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} overflows {width} px"
            page.screenshot(path=tmp_path / f"{name}-{scheme}-{width}.png", full_page=True)
            assert page.evaluate(FAINT_TEXTS) == [], f"{name} at {width} px"
    page.get_by_role("link", name="Open on the board").click()
    expect(page.locator("#job")).to_be_visible()
    assert complaints.left() == []
