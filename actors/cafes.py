"""Cafés: ``process-cafe`` fetches what the places provider knows of one, ``update-cafe-stats`` counts them by city.

The sample domain, there to be copied from or deleted (docs/decisions/0008-domains.md). A café's row and its job's
never disagree for long: an attempt writes in one transaction, behind its lease, and only what it is about to report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import dramatiq
from dramatiq import Message
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from sqlalchemy import exc

from actors._cafe_details import details_of
from actors._places import Place, find_place, place_details
from actors.runtime import JobCancelled, LeaseLost, PermanentError, Snooze, current_job, job_type
from actors.runtime.cron import cron
from actors.runtime.current import CurrentJob
from actors.runtime.logs import get_logger
from actors.runtime.sending import our_broker, send_many
from models import cafes
from models.engine import transaction
from models.json_data import clean_text
from models.settings import get_settings

__all__ = ["enqueue_process_cafe", "enqueue_update_cafe_stats"]

log = get_logger("cafes")

#: Milliseconds before the second attempt; doubling, as the old queue had it.
BACKOFF: Final = {"type": "exponential", "delay": 2_000}
#: Lower first: statistics wait for whatever people wait for.
STATS_PRIORITY: Final = 5
#: Milliseconds that a count waits for further changes: many changes at once make one count.
DEBOUNCE_MS: Final = 2_000
#: Cafés that one look of the scheduler hands out: the provider's quota is shared with everybody else.
DUE_PER_PASS: Final = 10
#: Cities that one transaction counts.
CITIES_AT_ONCE: Final = 20


class ProcessCafePayload(BaseModel):
    """What ``POST /jobs`` takes as the payload of a ``process-cafe`` job."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)

    cafe_id: UUID = Field(description="the café's id")


class UpdateCafeStatsPayload(BaseModel):
    """What ``POST /jobs`` takes as the payload of an ``update-cafe-stats`` job."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)

    city_slug: str | None = Field(None, min_length=1, max_length=200, description="one city; all when left out")


@job_type(ProcessCafePayload)
@dramatiq.actor(actor_name=cafes.PROCESS, max_retries=2, time_limit=60_000)
def process_cafe(cafe_id: UUID) -> dict[str, Any]:
    """Fetch a café's details and bring its row up to date; a café that does not exist is a permanent failure."""
    job = current_job()
    try:
        return _process(job, cafe_id)
    except Snooze as pause:
        job.log(f"{pause}; again in {pause.delay_ms / 1000:g} s")  # an attempt that is given back leaves no error
        raise
    except (JobCancelled, LeaseLost):
        raise
    except Exception as error:
        _note_failure(job, cafe_id, error)
        raise


def _process(job: CurrentJob, cafe_id: UUID) -> dict[str, Any]:
    steps = 4
    job.progress(0, steps, "loading the café")
    with _database().connect() as connection:
        cafe = connection.execute(cafes.one_cafe(), {"tenant": job.tenant_id, "cafe_id": cafe_id}).mappings().first()
    if cafe is None:
        raise PermanentError(f"there is no café {cafe_id}")
    job.progress(1, steps, f"{cafe['name']}: asking the places provider")
    place = _place_of(cafe)
    job.check()
    job.progress(2, steps, f"{cafe['name']}: reading the answer")
    details = details_of(place)
    job.progress(3, steps, f"{cafe['name']}: writing")
    values = {**details, "tenant": job.tenant_id, "cafe_id": cafe_id, "by_job": job.id}
    from sqlalchemy.orm import Session  # senders do not need it

    with Session(transaction(_database())) as session, session.begin():
        job.fence(session)
        changed = session.execute(cafes.store_details(), values).one_or_none()
        if changed is None:
            raise PermanentError(f"the café {cafe_id} was deleted meanwhile")
        if changed.status != changed.was:
            enqueue_update_cafe_stats(cafe["city_slug"], tenant_id=job.tenant_id, session=session)
    job.progress(steps, steps, f"{cafe['name']}: {changed.status}")
    return {
        "success": True,
        "cafe": {
            "id": str(cafe_id),
            "name": cafe["name"],
            "city_slug": cafe["city_slug"],
            "status": changed.status,
            "was": changed.was,
            "address": details["new_address"],
            "website": details["new_website"],
        },
    }


def _place_of(cafe: Mapping[str, Any]) -> Place:
    if cafe["source_place_id"]:
        return place_details(cafe["source_place_id"])
    place = find_place(f"{cafe['name']}, {cafe['address'] or cafe['city_slug'].replace('-', ' ')}")
    if place is None:
        raise PermanentError(f"the places provider finds no {clean_text(cafe['name'], 200)}")
    return place


def _note_failure(job: CurrentJob, cafe_id: UUID, error: Exception) -> None:
    """Say on the café's row what the job's row is about to say."""
    is_final = job.is_last_attempt or isinstance(error, PermanentError)
    values = {
        "tenant": job.tenant_id,
        "cafe_id": cafe_id,
        "by_job": job.id,
        "why": clean_text(error, 500),
        "is_final": is_final,
    }
    try:
        with transaction(_database()).begin() as connection:
            job.fence(connection)
            connection.execute(cafes.note_failure(), values)
    except (exc.DBAPIError, LeaseLost) as trouble:
        # The job's own row gets the error in any case, and the scheduler's next look brings it to the café's.
        log.warning("cafe.failure_not_noted", job_id=str(job.id), cafe_id=str(cafe_id), error=str(trouble))


@job_type(UpdateCafeStatsPayload)
@dramatiq.actor(actor_name="update-cafe-stats", max_retries=2, priority=STATS_PRIORITY, periodic=cron("0 3 * * *"))
def update_cafe_stats(city_slug: str | None = None) -> dict[str, Any]:
    """Count the published cafés of one city or of all, down to 0 too."""
    job = current_job()
    with _database().connect() as connection:
        known = [row.slug for row in connection.execute(cafes.all_cities(), {"tenant": job.tenant_id})]
    wanted = known if city_slug is None else [slug for slug in known if slug == city_slug]
    if city_slug is not None and not wanted:
        raise PermanentError(f"there is no city {clean_text(city_slug, 100)!r}")
    counted = 0
    job.progress(0, len(wanted), "counting")
    for start in range(0, len(wanted), CITIES_AT_ONCE):
        job.check()
        slugs = wanted[start : start + CITIES_AT_ONCE]
        values = {"tenant": job.tenant_id, "slugs": slugs}
        with transaction(_database()).begin() as connection:
            job.fence(connection)
            connection.execute(cafes.hold_cities(), values)
            counted += sum(row.cafes_count for row in connection.execute(cafes.count_cafes(), values))
        job.progress(start + len(slugs), len(wanted), slugs[-1])
    return {"success": True, "processed": counted, "citiesProcessed": len(wanted)}


@dramatiq.actor(actor_name="pick-due-cafes", max_retries=2, periodic=cron("*/5 * * * *"))
def pick_due_cafes() -> dict[str, Any]:
    """Send a job for each of a few cafés that are due, whatever tenant they belong to."""
    with _database().connect() as connection:
        settled = len(connection.execute(cafes.settle_failed()).all())
        if get_settings().places_url is None:
            return {"picked": 0, "settled": settled, "why": "CALLBOARD_PLACES_URL is not set"}
        due = connection.execute(cafes.due_cafes(), {"number": DUE_PER_PASS}).all()
    send_many([process_message(row.id, tenant_id=row.tenant_id) for row in due])
    return {"picked": len(due), "settled": settled}


def process_message(cafe_id: UUID | str, **options: Any) -> Message[Any]:
    """The message of one café's job; while one is live, another is its duplicate."""
    defaults = {"unique_key": cafes.slot_of(str(cafe_id).lower()), "backoff": BACKOFF}
    return process_cafe.message_with_options(kwargs={"cafe_id": str(cafe_id)}, **{**defaults, **options})


def stats_message(city_slug: str | None = None, **options: Any) -> Message[Any]:
    """The message of a count; while one waits, another is its duplicate."""
    key = "update-cafe-stats" if city_slug is None else f"update-cafe-stats:{city_slug}"
    defaults: dict[str, Any] = {
        "unique_key": key[:255],
        "unique_scope": "waiting",
        "delay": DEBOUNCE_MS,
        "priority": STATS_PRIORITY,
        "backoff": BACKOFF,
    }
    if "run_at" in options:
        del defaults["delay"]
    kwargs = {} if city_slug is None else {"city_slug": city_slug}
    return update_cafe_stats.message_with_options(kwargs=kwargs, **{**defaults, **options})


def enqueue_process_cafe(
    cafe_id: UUID | str, *, session: Any = None, attempts: int | None = None, **options: Any
) -> Message[Any]:
    """Send ``process-cafe`` for one café, at most one job of it at a time.

    Args:
      cafe_id: the café's id. session: joins that transaction, as with ``using``.
      attempts: as BullMQ calls ``max_attempts``; 3 by default.
      options: ``delay`` (ms or timedelta), ``run_at``, ``priority``, ``backoff``, ``unique_key``, ``tenant_id``.

    Returns: the message; ``options["duplicate"]`` when the café's job is live already, with that job's id.
    """
    if attempts is not None:
        options["max_attempts"] = attempts
    return send_many([process_message(cafe_id, **options)], session=session)[0]


def enqueue_update_cafe_stats(
    city_slug: str | None = None, *, session: Any = None, attempts: int | None = None, **options: Any
) -> Message[Any]:
    """Send ``update-cafe-stats`` for one city or for all, at most one waiting, after :data:`DEBOUNCE_MS`.

    What changes while a count runs is counted by the next one, which may wait beside it. Arguments as
    :func:`enqueue_process_cafe`; the priority is 5 unless another is given.
    """
    if attempts is not None:
        options["max_attempts"] = attempts
    return send_many([stats_message(city_slug, **options)], session=session)[0]


def judge_cafe(
    cafe_id: UUID, new_status: cafes.CafeStatus, before: Sequence[cafes.CafeStatus], *, tenant_id: str, why: str | None
) -> bool:
    """A person's decision, and the count that follows from it, in one transaction.

    Args:
      before: the statuses from which it may be made. why: kept as the reason.

    Returns: False when there is no such café, or its status is another by now; nothing was done.
    """
    from sqlalchemy.orm import Session

    values = {"tenant": tenant_id, "cafe_id": cafe_id, "new_status": new_status, "reason": why, "before": list(before)}
    with Session(transaction(_database())) as session, session.begin():
        row = session.execute(cafes.judge(), values).one_or_none()
        if row is not None:
            enqueue_update_cafe_stats(row.city_slug, tenant_id=tenant_id, session=session)
    return row is not None


def _database() -> Any:
    return our_broker().resources.engine
