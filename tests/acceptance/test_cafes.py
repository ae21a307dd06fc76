"""The café back office on a running ``up``, by HTTP alone."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from dev.cafe_seed import seeds
from models.state import TERMINAL
from tests.acceptance.spine import Spine
from tests.support import wait_for


@pytest.fixture
def api(spine: Spine) -> Any:
    with spine.api() as client:
        yield client


def every(api: httpx.Client, path: str, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        answer = api.get(path, params={**parameters, **({"after": after} if after else {})}).json()
        found += answer[name]
        after = answer["next"]
        if after is None:
            return found


def test_every_seeded_cafe_is_processed_by_the_local_provider(spine: Spine, api: httpx.Client) -> None:
    listed = every(api, "/cafes", "cafes", limit=100)
    assert {cafe["id"] for cafe in listed} == {str(seed.row["id"]) for seed in seeds()}
    jobs = {cafe["id"]: spine.send("process-cafe", {"cafeId": cafe["id"]}) for cafe in listed}

    def left() -> bool:
        ended = sum(len(every(api, "/jobs", "jobs", type="process-cafe", status=s, limit=100)) for s in TERMINAL)
        assert ended >= len(jobs), ended
        return True

    wait_for(left, 120, interval=0.5, what="all jobs end")
    closed = {str(s.row["id"]) for s in seeds() if s.place["businessStatus"] != "OPERATIONAL"}
    published = {str(s.row["id"]) for s in seeds() if s.row["status"] == "PUBLISHED"}
    for cafe in every(api, "/cafes", "cafes", limit=100):
        expected = "CLOSED" if cafe["id"] in closed else "PUBLISHED" if cafe["id"] in published else "PROCESSED"
        assert (cafe["status"], cafe["processed"], cafe["error_message"]) == (expected, True, None)
    assert {spine.job(job_id)["status"] for job_id in jobs.values()} == {"COMPLETED"}


def test_counts_are_what_sql_says(spine: Spine, api: httpx.Client) -> None:
    job = spine.wait_until_ended(spine.send("update-cafe-stats", {}), 60)
    assert job["status"] == "COMPLETED"
    counted = {city["slug"]: city["cafes_count"] for city in api.get("/cities").json()["cities"]}
    with spine.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT city_slug, count(*) FROM callboard.cafes WHERE status = 'PUBLISHED' GROUP BY city_slug"
        ).all()
    assert {slug: number for slug, number in counted.items() if number} == dict(map(tuple, rows))
    assert job["result"] == {"success": True, "processed": sum(counted.values()), "citiesProcessed": 12}


def test_an_import_makes_cafes_that_can_be_processed(spine: Spine, api: httpx.Client) -> None:
    seed = next(s for s in seeds() if s.place["businessStatus"] == "OPERATIONAL")
    rows = f"name,city,countryCode,slug,sourcePlaceId\nImported,Vienna,AT,imported,{seed.place['id']}\n"
    answer = api.post("/cafes/import", content=rows, headers={"Content-Type": "text/csv"})
    assert answer.json() == {"created": 1, "updated": 0}
    again = api.post("/cafes/import", content=rows, headers={"Content-Type": "text/csv"})
    assert again.json() == {"created": 0, "updated": 1}
    [cafe] = [c for c in every(api, "/cafes", "cafes", city="vienna", limit=100) if c["slug"] == "imported"]
    spine.wait_until_ended(spine.send("process-cafe", {"cafeId": cafe["id"]}), 60)
    found = api.get(f"/cafes/{cafe['id']}").json()
    assert (found["status"], found["address"]) == ("PROCESSED", seed.place["formattedAddress"])
    assert cafe["id"] in {each["id"] for each in every(api, "/cafes", "cafes", status="PROCESSED")}


def test_another_tenants_cafes_are_not_there(spine: Spine, api: httpx.Client) -> None:
    created = spine.clone.call("keys", "create", "--tenant", "no-cafes")
    with spine.client(created.stdout.strip()) as other:
        assert other.get("/cafes").json() == {"cafes": [], "next": None}
        assert other.get(f"/cafes/{seeds()[0].row['id']}").status_code == 404
