"""Between rows and messages: ids, marks, bands, names in Redis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from dramatiq import Message

from actors.runtime.identifiers import new_id
from actors.runtime.keys import all_keys, job_of, list_key, list_keys, messages_key, redis_id
from actors.runtime.messages import MARK, TRANSIENT, band_of, job_id_of, offer_of, tick_id_of

ID = UUID("01980000-0000-7000-8000-00000000000a")
OFFERED = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "tenant_id": "acme",
        "actor": "act",
        "queue": "mails",
        "priority": 0,
        "args": [1, "é"],
        "kwargs": {"a": [1.5]},
        "options": {"max_retries": 3},
        "message_timestamp": 1_700_000_000_000,
        "dispatch": 7,
        "offered_at": OFFERED,
        **changes,
    }


# -- ids


def test_a_uuid_is_its_own_job_id() -> None:
    assert job_id_of(str(ID)) == (ID, False)


@pytest.mark.parametrize("spelt", [str(ID).upper(), ID.hex, f"{{{ID}}}", ID.urn])
def test_another_spelling_of_a_uuid_is_the_same_job_and_its_spelling_is_kept(spelt: str) -> None:
    assert job_id_of(spelt) == (ID, True)


@pytest.mark.parametrize("foreign", ["order-17", "", "1", "0198", "é" * 300, "a\0b"])
def test_a_foreign_id_becomes_its_uuid5(foreign: str) -> None:
    job_id, replaced = job_id_of(foreign)
    assert replaced
    assert job_id.version == 5
    assert job_id_of(foreign) == (job_id, True)
    assert job_id_of(foreign + "x")[0] != job_id


def test_a_foreign_id_that_is_no_text_has_a_job_id_too() -> None:
    assert job_id_of(17)[0] == job_id_of("17")[0]  # type: ignore[arg-type]


def test_the_uuid5_of_a_foreign_id_never_changes() -> None:
    """A redelivery after an upgrade must find the row that was made before it."""
    namespace = uuid5(UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8"), "callboard:message-id")
    assert job_id_of("order-17")[0] == uuid5(namespace, "order-17")


def test_new_ids_are_uuid7_and_rise() -> None:
    made = [new_id() for _ in range(1000)]
    assert {i.version for i in made} == {7}
    assert made == sorted(made)
    assert len(set(made)) == 1000


# -- ticks


def test_one_actor_and_minute_is_one_tick() -> None:
    berlin = tick_id_of("report", "2026-03-01T09:00:00+01:00")
    assert berlin is not None
    assert berlin == tick_id_of("report", "2026-03-01T08:00:59.9+00:00")
    assert berlin != tick_id_of("report", "2026-03-01T08:01:00+00:00")
    assert berlin != tick_id_of("other", "2026-03-01T08:00:00+00:00")


@pytest.mark.parametrize("given", ["", "soon", None, 5])
def test_what_is_no_time_is_no_tick(given: Any) -> None:
    assert tick_id_of("report", given) is None


def test_ticks_and_foreign_ids_do_not_meet() -> None:
    tick = tick_id_of("report", "2026-03-01T08:00:00+00:00")
    assert tick != job_id_of("2026-03-01T08:00:00+00:00")[0]


# -- offers


def test_an_offer_rebuilds_the_message_and_marks_it() -> None:
    offer = offer_of(row())
    assert (offer.queue, offer.band, offer.redis_id) == ("mails", 0, f"{ID}.7")
    message: Message[Any] = Message.decode(offer.data)
    assert message.message_id == str(ID)
    assert (message.actor_name, message.queue_name) == ("act", "mails")
    assert (tuple(message.args), message.kwargs) == ((1, "é"), {"a": [1.5]})
    assert message.message_timestamp == 1_700_000_000_000
    assert message.options == {
        "max_retries": 3,
        "redis_message_id": f"{ID}.7",
        MARK: {"dispatch": 7, "offered_ms": int(OFFERED.timestamp() * 1000), "band": 0},
    }


def test_the_same_offer_is_the_same_bytes_and_the_next_is_not() -> None:
    assert offer_of(row()) == offer_of(row())
    later = offer_of(row(dispatch=8, offered_at=OFFERED + timedelta(seconds=9)))
    assert later.redis_id == f"{ID}.8"
    assert later.data != offer_of(row()).data


def test_options_of_the_row_cannot_forge_the_mark() -> None:
    forged = offer_of(row(options={MARK: {"dispatch": 1}, "redis_message_id": "x"}))
    message: Message[Any] = Message.decode(forged.data)
    assert message.options[MARK]["dispatch"] == 7
    assert message.options["redis_message_id"] == f"{ID}.7"


def test_what_describes_one_delivery_never_enters_a_row() -> None:
    assert {MARK, "redis_message_id", "eta", "retries", "traceback", "scheduled_at"} <= TRANSIENT


@pytest.mark.parametrize(("priority", "band"), [(-10, -1), (-1, -1), (0, 0), (1, 1), (10, 1)])
def test_bands(priority: int, band: int) -> None:
    assert band_of(priority) == band
    assert offer_of(row(priority=priority)).band == band


# -- names in Redis


def test_redis_ids_lead_back_to_their_jobs() -> None:
    job = uuid4()
    assert redis_id(job, 12) == f"{job}.12"
    assert job_of(redis_id(job, 12)) == job


@pytest.mark.parametrize("stock", [str(ID), f"{ID}.", f"{ID}.x", "a.1", "", ".", f"{ID}.-1"])
def test_a_stock_redis_id_is_not_ours(stock: str) -> None:
    assert job_of(stock) is None


def test_a_queue_has_three_lists_most_urgent_first_and_the_middle_one_is_stock() -> None:
    assert list_keys("q") == ["dramatiq:q:urgent", "dramatiq:q", "dramatiq:q:patient"]
    assert list_key("q", 0) == "dramatiq:q"
    assert set(all_keys("q")) >= {*list_keys("q"), messages_key("q"), "dramatiq:q.DQ", "dramatiq:q.DQ.msgs"}
