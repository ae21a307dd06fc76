"""Cafés with a real worker, a real database and a provider that answers over HTTP, well or badly."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from dramatiq import get_broker, set_broker
from sqlalchemy import Engine, select, text, update

import actors
from actors import enqueue_process_cafe, enqueue_update_cafe_stats, send_many
from actors.cafes import pick_due_cafes, process_message, stats_message
from dev.cafe_seed import plant, seeds
from dev.services.places import Provider
from models import cafes as statements
from models.cafes import cafes, cities
from models.engine import transaction
from models.settings import get_settings
from tests.cafe_provider import KEY, serving
from tests.integration import ledger_support
from tests.integration.worker_support import COMPLETED, FAILED, PENDING, Gate, Stage
from tests.support import wait_for

pytestmark = pytest.mark.once

module_database = ledger_support.module_database


@pytest.fixture
def database_url(module_database: str, ledger_url: str) -> str:
    return module_database


@pytest.fixture
def ledger_url(module_database: str) -> str:
    """The module's database without a row of ours or of the cafés."""
    import psycopg

    with psycopg.connect(module_database, autocommit=True) as connection:
        for table in ("jobs", "workers", "leases", "cafes", "cities"):
            connection.execute(f"DELETE FROM callboard.{table}")
    return module_database


class Town(Stage):
    """The real actors on this test's database, the seed's cafés, and a provider that knows their places."""

    provider: Provider
    provider_url: str

    def faults(self, **shares: float) -> None:
        assert httpx.put(f"{self.provider_url}/faults", json=shares).is_success

    def cafe(self, cafe_id: UUID) -> dict[str, Any]:
        with self.engine.connect() as connection:
            return dict(connection.execute(select(cafes).where(cafes.c.id == cafe_id)).mappings().one())

    def every_cafe(self) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(select(cafes).order_by(cafes.c.id)).mappings()]

    def counts(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            return {row.slug: row.cafes_count for row in connection.execute(select(cities))}

    def change(self, cafe_id: UUID | None = None, **columns: Any) -> None:
        with self.engine.connect() as connection:
            statement = update(cafes).values(**columns)
            connection.execute(statement if cafe_id is None else statement.where(cafes.c.id == cafe_id))


@pytest.fixture
def provider() -> Iterator[tuple[Provider, str]]:
    with serving() as provider:
        yield provider


@pytest.fixture
def town(
    environment: dict[str, str],
    engine: Engine,
    provider: tuple[Provider, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Town]:
    monkeypatch.setenv("CALLBOARD_PLACES_URL", provider[1])
    monkeypatch.setenv("CALLBOARD_PLACES_KEY", KEY)
    get_settings.cache_clear()
    # A retry of these tests comes at once.
    monkeypatch.setattr("actors.cafes.BACKOFF", {"type": "fixed", "delay": 20})
    monkeypatch.setattr("actors.cafes.DEBOUNCE_MS", 1_000)
    before, middleware = get_broker(), list(actors.broker.middleware)
    set_broker(actors.broker)
    actors.broker.close()
    town = Town(actors.broker, engine)
    town.provider, town.provider_url = provider
    plant(engine)
    try:
        yield town
    finally:
        town.stop()
        actors.broker.middleware[:] = middleware  # a worker adds one of its own
        actors.broker.close()
        set_broker(before)


def a_cafe(**columns: Any) -> UUID:
    """The id of a seeded café like this."""
    wanted = {"status": "NEW", **columns}
    return UUID(str(next(s.row["id"] for s in seeds() if all(s.row[k] == v for k, v in wanted.items()))))


def seed_of(cafe_id: UUID) -> Any:
    return next(seed for seed in seeds() if seed.row["id"] == cafe_id)


def is_operational(cafe_id: UUID) -> bool:
    return bool(seed_of(cafe_id).place["businessStatus"] == "OPERATIONAL")


def operational(status: str = "NEW", known: bool = True) -> UUID:
    return next(
        seed.row["id"]
        for seed in seeds()
        if (seed.row["status"], seed.row["source_place_id"] is not None) == (status, known)
        and is_operational(seed.row["id"])
    )


def test_a_cafe_gets_all_that_the_provider_knows(town: Town) -> None:
    cafe_id = operational()
    town.start()
    job = town.run(enqueue_process_cafe(cafe_id))
    assert (job["status"], job["attempts"], job["unique_slot"]) == (COMPLETED, 1, None)
    cafe, place = town.cafe(cafe_id), seed_of(cafe_id).place
    assert job["result"]["success"] is True
    assert job["result"]["cafe"]["status"] == cafe["status"] == "PROCESSED"
    assert cafe["processed"]
    assert cafe["address"] == place["formattedAddress"]
    assert (cafe["latitude"], cafe["longitude"]) == (place["location"]["latitude"], place["location"]["longitude"])
    assert (cafe["rating"], cafe["review_count"]) == (place["rating"], place["userRatingCount"])
    assert cafe["website"] == place["websiteUri"].partition("?")[0]
    assert cafe["links"] == {"website": place["websiteUri"], "maps": place["googleMapsUri"]}
    assert cafe["opening_hours"]["fri"][0][0].endswith(":00")
    assert cafe["job_id"] == job["id"]
    assert job["progress"]["current"] == job["progress"]["total"] == 4


def test_a_cafe_without_a_place_id_is_found_by_its_name(town: Town) -> None:
    cafe_id = operational(known=False)
    town.start()
    town.run(enqueue_process_cafe(cafe_id))
    assert town.cafe(cafe_id)["source_place_id"] == seed_of(cafe_id).place["id"]


def test_what_is_published_stays_so_and_what_has_closed_is_closed_with_the_reason(town: Town) -> None:
    shown = operational("PUBLISHED")
    gone = next(s.row["id"] for s in seeds() if s.row["status"] == "PUBLISHED" and not is_operational(s.row["id"]))
    town.start()
    for cafe_id in (shown, gone):
        assert town.run(enqueue_process_cafe(cafe_id))["status"] == COMPLETED
    assert (town.cafe(shown)["status"], town.cafe(shown)["processed"]) == ("PUBLISHED", True)
    closed = town.cafe(gone)
    assert (closed["status"], closed["discard_reason"]) == ("CLOSED", "This place is not operational")
    # Its city was counted again, by a job of the same transaction.
    town.wait_until_all_ended(3, 10)
    expected = sum(row["status"] == "PUBLISHED" for row in town.every_cafe() if row["city_slug"] == closed["city_slug"])
    assert town.counts()[closed["city_slug"]] == expected


@pytest.mark.parametrize("judged", ["NOT_FRIENDLY", "DISCARDED", "DUPLICATE"])
def test_a_persons_judgement_stays(town: Town, judged: str) -> None:
    cafe_id = operational()
    town.change(cafe_id, status=judged, discard_reason="an editor's")
    town.start()
    town.run(enqueue_process_cafe(cafe_id))
    assert (town.cafe(cafe_id)["status"], town.cafe(cafe_id)["discard_reason"]) == (judged, "an editor's")


def test_a_cafe_that_does_not_exist_fails_at_once(town: Town) -> None:
    town.start()
    job = town.run(enqueue_process_cafe(uuid4()))
    assert (job["status"], job["attempts"]) == (FAILED, 1)
    assert "there is no café" in job["error"]


def test_another_tenants_cafe_does_not_exist(town: Town) -> None:
    town.execute("INSERT INTO callboard.tenants VALUES ('other') ON CONFLICT DO NOTHING")
    town.start()
    cafe_id = operational()
    job = town.run(enqueue_process_cafe(cafe_id, tenant_id="other"))
    assert job["status"] == FAILED
    assert town.cafe(cafe_id)["processed"] is False


def test_a_place_that_is_gone_is_an_error_on_both_rows(town: Town) -> None:
    cafe_id = operational()
    town.change(cafe_id, source_place_id="gone")
    town.start()
    job = town.run(enqueue_process_cafe(cafe_id))
    assert (job["status"], job["attempts"]) == (FAILED, 1)
    assert (town.cafe(cafe_id)["status"], town.cafe(cafe_id)["error_message"]) == ("ERROR", job["errors"][0]["message"])


def test_a_provider_error_is_a_retry_and_leaves_no_trace_when_that_succeeds(town: Town) -> None:
    cafe_id = operational()
    town.faults(error=1.0)
    town.start()
    message = enqueue_process_cafe(cafe_id, backoff={"type": "fixed", "delay": 300})
    wait_for(lambda: town.cafe(cafe_id)["error_message"], what="the first attempt's error")
    assert town.cafe(cafe_id)["status"] == "NEW"
    town.faults()
    job = town.wait_until_ended(message)
    assert (job["status"], len(job["errors"])) == (COMPLETED, job["attempts"] - 1)
    assert (town.cafe(cafe_id)["status"], town.cafe(cafe_id)["error_message"]) == ("PROCESSED", None)


@pytest.mark.parametrize("fault", ["error", "garbage"])
def test_a_provider_that_stays_broken_is_an_error_on_both_rows(town: Town, fault: str) -> None:
    cafe_id, shown = operational(), operational("PUBLISHED")
    town.faults(**{fault: 1.0})
    town.start()
    for each in (cafe_id, shown):
        job = town.run(enqueue_process_cafe(each))
        assert (job["status"], job["attempts"]) == (FAILED, 3)
        assert town.cafe(each)["error_message"] == job["errors"][-1]["message"]
        assert town.cafe(each)["processed"] is False
    assert [town.cafe(each)["status"] for each in (cafe_id, shown)] == ["ERROR", "PUBLISHED"]


def test_too_many_requests_burn_no_attempt(town: Town) -> None:
    cafe_id = operational()
    town.faults(limit=1.0)
    town.start()
    message = enqueue_process_cafe(cafe_id)
    lines = wait_for(lambda: town.job(message)["log"], what="the job says why it waits")
    assert "429" in lines[0]["text"]
    town.faults()
    job = town.wait_until_ended(message)
    assert (job["status"], job["attempts"]) == (COMPLETED, 1)


def test_a_bad_provider_leaves_every_cafe_right_or_visibly_failed(town: Town) -> None:
    """20 % of the requests fail, some are garbage, slow or too many; no row is half of anything."""
    town.faults(error=0.2, garbage=0.05, limit=0.05, slow_ms=10)
    town.start(threads=8)
    chosen = [seed.row["id"] for seed in seeds()][:120]
    messages = {cafe_id: process_message(cafe_id) for cafe_id in chosen}
    send_many(messages.values())
    for message in messages.values():
        wait_for(lambda message=message: town.job(message)["status"] in (COMPLETED, FAILED), 60, what="job to end")
    came_to = Counter()
    for cafe_id, message in messages.items():
        job, cafe, seed = town.job(message), town.cafe(cafe_id), seed_of(cafe_id)
        came_to[job["status"]] += 1
        if job["status"] == FAILED:
            assert (cafe["processed"], cafe["address"], cafe["rating"]) == (False, None, None)
            assert cafe["error_message"] == job["errors"][-1]["message"]
            assert cafe["status"] == ("PUBLISHED" if seed.row["status"] == "PUBLISHED" else "ERROR")
            continue
        done = seed.row["status"] if seed.row["status"] == "PUBLISHED" else "PROCESSED"
        assert cafe["status"] == (done if is_operational(cafe_id) else "CLOSED")
        assert (cafe["processed"], cafe["error_message"]) == (True, None)
        assert (cafe["address"], cafe["rating"]) == (seed.place["formattedAddress"], seed.place["rating"])
    assert came_to[COMPLETED] > 100, came_to


def test_one_live_job_a_cafe(town: Town) -> None:
    cafe_id = operational()
    first = enqueue_process_cafe(cafe_id, delay=60_000)
    second = enqueue_process_cafe(str(cafe_id).upper())
    assert second.message_id == first.message_id
    assert second.options["duplicate"] is True
    assert len(town.jobs()) == 1


def test_the_helpers_take_the_old_options(town: Town) -> None:
    cafe_id = operational()
    backoff = {"type": "exponential", "delay": 5_000}
    options = {"attempts": 7, "delay": 60_000, "priority": -3, "backoff": backoff, "unique_key": "mine"}
    row = town.job(enqueue_process_cafe(cafe_id, **options))
    assert (row["max_attempts"], row["priority"], row["unique_key"]) == (7, -3, "mine")
    assert row["options"]["backoff"] == backoff
    stats = town.job(enqueue_update_cafe_stats("vienna"))
    assert (stats["priority"], stats["unique_key"], stats["unique_scope"]) == (5, "update-cafe-stats:vienna", "waiting")
    assert town.job(enqueue_update_cafe_stats())["max_attempts"] == 3


# -- counting


def test_counts_fall_to_nothing_too(town: Town) -> None:
    town.start()
    published = Counter(row["city_slug"] for row in town.every_cafe() if row["status"] == "PUBLISHED")
    job = town.run(enqueue_update_cafe_stats(delay=0))
    assert job["result"] == {"success": True, "processed": published.total(), "citiesProcessed": 12}
    assert {slug: number for slug, number in town.counts().items() if number} == published
    town.change(status="PROCESSED")
    town.run(enqueue_update_cafe_stats(delay=0))
    assert set(town.counts().values()) == {0}
    assert job["progress"]["current"] == 12


def test_a_city_that_does_not_exist_fails_at_once(town: Town) -> None:
    town.start()
    job = town.run(enqueue_update_cafe_stats("atlantis", delay=0))
    assert (job["status"], job["attempts"]) == (FAILED, 1)


def test_a_hundred_counts_during_a_run_are_one_more(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    counted = []

    count = statements.count_cafes

    def slow() -> Any:
        counted.append(1)
        if len(counted) == 1:
            gate.wait()
        return count()

    monkeypatch.setattr("models.cafes.count_cafes", slow)
    monkeypatch.setattr("actors.cafes.DEBOUNCE_MS", 5_000)  # longer than a hundred senders take on a busy machine
    town.start()
    first = enqueue_update_cafe_stats("vienna", delay=0)
    gate.meet()
    sent: list[str] = []
    threads = [
        threading.Thread(target=lambda: sent.append(enqueue_update_cafe_stats("vienna").message_id)) for _ in range(100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gate.opened.set()
    rows = town.wait_until_all_ended(2, 30)
    assert (len(sent), len(set(sent)), len(counted)) == (100, 1, 2)
    assert {row["status"] for row in rows} == {COMPLETED}
    assert str(first.message_id) not in sent


# -- the scheduler


def test_published_cafes_whose_jobs_fail_do_not_keep_the_others_waiting(town: Town) -> None:
    now = datetime.now(UTC)
    *gone, other = [UUID(str(seed.row["id"])) for seed in seeds()][:4]
    town.change(status="DISCARDED")
    for cafe_id in gone:
        failed = {"error_message": "the provider knows no such place", "updated_at": now - timedelta(minutes=5)}
        town.change(cafe_id, status="PUBLISHED", processed_at=now - timedelta(days=32), **failed)
    town.change(other, status="PROCESSED", processed_at=now - timedelta(days=31))
    with town.engine.connect() as connection:
        assert [row.id for row in connection.execute(statements.due_cafes(), {"number": 10})] == [other]
        town.change(gone[0], updated_at=now - timedelta(days=2))
        assert len(connection.execute(statements.due_cafes(), {"number": 10}).all()) == 2


def test_a_look_hands_out_a_few_due_cafes_and_none_twice(town: Town) -> None:
    town.start()
    town.faults(slow_ms=500)
    for number in (10, 20):
        job = town.run(pick_due_cafes.send())
        assert job["result"]["picked"] == 10
        assert len(town.jobs("process-cafe")) == number
    assert len({row["unique_key"] for row in town.jobs("process-cafe")}) == 20


def test_what_is_fresh_or_judged_is_not_due(town: Town) -> None:
    town.change(status="PROCESSED", processed_at=text("now() - interval '29 days'"))
    town.start()
    assert town.run(pick_due_cafes.send())["result"]["picked"] == 0
    town.change(operational(), processed_at=text("now() - interval '31 days'"))
    assert town.run(pick_due_cafes.send())["result"]["picked"] == 1


def test_without_a_provider_nothing_is_handed_out(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALLBOARD_PLACES_URL")
    get_settings.cache_clear()
    town.start()
    result = town.run(pick_due_cafes.send())["result"]
    assert (result["picked"], result["why"]) == (0, "CALLBOARD_PLACES_URL is not set")
    assert town.jobs("process-cafe") == []


def test_a_job_that_ended_without_a_word_is_told_by_the_next_look(town: Town) -> None:
    """Its worker died for the third time: nobody was left to write the café's row."""
    cafe_id = operational()
    message = enqueue_process_cafe(cafe_id, delay=60_000)
    town.execute(
        "UPDATE callboard.jobs SET status = 'FAILED', error = 'worker process died 3 times', finished_at = now(),"
        " unique_slot = NULL WHERE id = :id",
        id=message.message_id,
    )
    town.start()
    assert town.run(pick_due_cafes.send())["result"]["settled"] == 1
    assert (town.cafe(cafe_id)["status"], town.cafe(cafe_id)["error_message"]) == (
        "ERROR",
        "worker process died 3 times",
    )
    assert town.run(pick_due_cafes.send())["result"]["settled"] == 0


# -- fences


def test_a_zombie_writes_nothing(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt was taken away while it asked the provider: what it learnt must not reach the row."""
    from actors import cafes as module

    cafe_id = operational()
    ask = module.place_details

    def and_lose(place_id: str) -> Any:
        place = ask(place_id)
        # What the rescuer does when the worker seems dead.
        town.execute(
            "UPDATE callboard.jobs SET status = 'PENDING', attempt_token = NULL, run_at = now() + interval '1 hour',"
            " unique_slot = unique_key WHERE actor = 'process-cafe'"
        )
        return place

    monkeypatch.setattr(module, "place_details", and_lose)
    town.start()
    message = enqueue_process_cafe(cafe_id)
    wait_for(lambda: town.job(message)["status"] == PENDING and town.job(message)["attempts"] == 1)
    town.stop()
    cafe = town.cafe(cafe_id)
    assert (cafe["processed"], cafe["status"], cafe["error_message"]) == (False, "NEW", None)


def test_a_change_that_is_rolled_back_asks_for_no_count(town: Town) -> None:
    from sqlalchemy.orm import Session

    with Session(transaction(town.engine)) as session:
        send_many([stats_message("vienna")], session=session)
        session.rollback()
    assert town.jobs() == []
