"""The page of cafés: processing is watched without a reload, and decisions count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Engine, func, select

from dev.cafe_seed import plant, seeds
from dev.services.places import Provider
from models.cafes import cafes, cities
from tests.browser.site import Site
from tests.cafe_provider import KEY, serving
from tests.support import wait_for

#: Notes every text of every meter that is shown.
NOTE_PROGRESS = """() => {
  window.stayed = true;
  window.progress = new Set();
  new MutationObserver(() => {
    for (const meter of document.querySelectorAll(".meter:not([hidden]) .meter-text")) {
      window.progress.add(meter.textContent);
    }
  }).observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
}"""


@pytest.fixture
def provider() -> Iterator[tuple[Provider, str]]:
    with serving() as provider:
        yield provider


@pytest.fixture
def environment(environment: dict[str, str], provider: tuple[Provider, str]) -> dict[str, str]:
    """Of a site that knows a provider."""
    return {**environment, "CALLBOARD_PLACES_URL": provider[1], "CALLBOARD_PLACES_KEY": KEY}


@pytest.fixture(autouse=True)
def planted(engine: Engine) -> None:
    plant(engine)


def statuses(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {row.status: row.number for row in connection.execute(
            select(cafes.c.status, func.count().label("number")).group_by(cafes.c.status)
        )}  # fmt: skip


def test_cafes_are_processed_before_ones_eyes(
    page: Page, site: Site, engine: Engine, provider: tuple[Provider, str]
) -> None:
    provider[0].faults = {"slow_ms": 400.0}
    with engine.connect() as connection:  # one city is enough to watch
        connection.execute(cafes.update().where(cafes.c.city_slug != "vienna").values(status="DISCARDED"))
    page.goto(f"{site.url}/board/cafes?city=vienna")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    new = page.locator('#numbers a[data-status="NEW"] .count')
    before = int(new.inner_text())
    page.get_by_role("button", name="Process what is due").click()
    expect(page.get_by_text("jobs were sent.")).to_be_visible()
    page.evaluate(NOTE_PROGRESS)
    expect(page.locator('.cafes .chip[data-cafe="PROCESSED"]').first).to_be_visible(timeout=30_000)
    provider[0].faults = {}
    wait_for(lambda: "NEW" not in statuses(engine), 60, what="all are processed")
    expect(page.locator('#numbers a[data-status="NEW"]')).to_have_count(0, timeout=30_000)
    expect(page.locator('#numbers a[data-status="PROCESSED"] .count')).to_have_text(str(statuses(engine)["PROCESSED"]))
    assert page.evaluate("window.stayed") is True
    told = page.evaluate("[...window.progress]")
    assert any("asking the places provider" in text for text in told), told
    assert before == sum(seed.row["status"] == "NEW" and seed.row["city_slug"] == "vienna" for seed in seeds())


def test_publishing_a_cafe_counts_it(page: Page, site: Site, engine: Engine) -> None:
    cafe_id = next(seed.row["id"] for seed in seeds() if seed.row["city_slug"] == "vienna")
    with engine.connect() as connection:
        connection.execute(cafes.update().values(status="NEW"))
        connection.execute(cafes.update().where(cafes.c.id == cafe_id).values(status="PROCESSED"))
    page.goto(f"{site.url}/board/cafes?city=vienna")
    row = page.locator(f'[id="cafe-{cafe_id}"]')
    row.get_by_role("button", name="Publish").click()
    expect(page.locator(f'[id="cafe-{cafe_id}"] .chip').first).to_have_text("PUBLISHED")
    expect(page.locator('[data-city="vienna"]')).to_have_text("1", timeout=20_000)
    with engine.connect() as connection:
        assert connection.execute(select(cities.c.cafes_count).where(cities.c.slug == "vienna")).scalar_one() == 1
