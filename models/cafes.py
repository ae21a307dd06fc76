"""Cafés and their cities: the sample domain's tables and the statements that read and write them.

A café belongs to a tenant, as a job does. Its status changes here and nowhere else, and each change is one
statement, so that a row is never half of one answer and half of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    Select,
    SmallInteger,
    Table,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, INTERVAL, JSONB, Insert, insert

from models.arrays import rows_of
from models.tables import jobs, metadata

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert


class CafeStatus(StrEnum):
    """What a café's row says of it."""

    NEW = "NEW"  # known by name only
    PROCESSED = "PROCESSED"  # its details were fetched; somebody may publish it
    PUBLISHED = "PUBLISHED"  # shown to people; stays so until it closes
    CLOSED = "CLOSED"  # the provider says that it is not operational
    NOT_FRIENDLY = "NOT_FRIENDLY"  # an editor's judgement, as the next two
    DISCARDED = "DISCARDED"
    DUPLICATE = "DUPLICATE"
    ERROR = "ERROR"  # its job has failed for good; ``error_message`` says why
    UNKNOWN = "UNKNOWN"


#: Cafés that a person has judged: processing refreshes what is known of them and leaves the judgement.
JUDGED: Final = (CafeStatus.NOT_FRIENDLY, CafeStatus.DISCARDED, CafeStatus.DUPLICATE)
#: Actor of the jobs that process one café.
PROCESS: Final = "process-cafe"

_now = func.now()


def _at(name: str, *, default_now: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=not default_now, server_default=_now if default_now else None)


cities = Table(
    "cities",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("slug", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("country_code", Text, nullable=False),  # ISO 3166-1 alpha-2
    Column("cafes_count", Integer, nullable=False, server_default="0"),  # PUBLISHED ones, as last counted
    Column("counted_at", DateTime(timezone=True)),
    Column("status", Text, nullable=False, server_default="ACTIVE"),
    _at("created_at", default_now=True),
    CheckConstraint("status IN ('ACTIVE', 'HIDDEN')", name="status"),
)

cafes = Table(
    "cafes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("slug", Text, nullable=False),
    Column("city_slug", Text, nullable=False),
    Column("address", Text),
    Column("latitude", Double),  # degrees, WGS 84
    Column("longitude", Double),
    Column("status", Text, nullable=False, server_default="NEW"),
    Column("discard_reason", Text),
    Column("processed", Boolean, nullable=False, server_default=false()),  # details were fetched at least once
    Column("processed_at", DateTime(timezone=True)),
    Column("rating", Double),  # 1 to 5
    Column("review_count", Integer),
    Column("price_level", SmallInteger),  # 0 free to 4 very expensive
    Column("opening_hours", JSONB),  # {"mon": [["08:00", "18:00"]], …}; a day without entry is a closed one
    Column("website", Text),  # origin and path
    Column("links", JSONB, nullable=False, server_default="{}"),
    Column("source", Text, nullable=False, server_default="import"),
    Column("source_place_id", Text),
    Column("error_message", Text),  # of the latest attempt, while the latest one failed
    Column("job_id", Uuid),  # the job that wrote this row last
    _at("created_at", default_now=True),
    _at("updated_at", default_now=True),
    ForeignKeyConstraint(["tenant_id", "city_slug"], ["cities.tenant_id", "cities.slug"]),
    CheckConstraint("status IN ({})".format(", ".join(f"'{status}'" for status in CafeStatus)), name="status"),
    CheckConstraint("price_level BETWEEN 0 AND 4", name="price_level"),
)
# A tenant's list, by city; also what an import recognises a café by.
Index("uq_cafes_slug", cafes.c.tenant_id, cafes.c.city_slug, cafes.c.slug, unique=True)
# What is due: never processed, or processed longest ago.
Index("ix_cafes_due", cafes.c.status, cafes.c.processed_at)

#: What the API and the page show of a café.
CAFE_COLUMNS: Final = tuple(cafes.c)

_tenant = bindparam("tenant", type_=Text())
_is_mine: ColumnElement[bool] = cafes.c.tenant_id == _tenant


@cache
def one_cafe() -> Select[Any]:
    """One café. Parameters: ``tenant``, ``cafe_id``."""
    return select(*CAFE_COLUMNS).where(_is_mine, cafes.c.id == bindparam("cafe_id", type_=Uuid()))


def page_of_cafes(
    *, status: CafeStatus | None = None, city: str | None = None, after: tuple[str, str] | None = None, limit: int
) -> Select[Any]:
    """Cafés by city and slug. Parameter: ``tenant``.

    Args:
      status, city: only these. after: city and slug of the last one on the page before. limit: rows at most.
    """
    wanted = [_is_mine]
    if status is not None:
        wanted.append(cafes.c.status == literal_column(f"'{CafeStatus(status)}'"))
    if city is not None:
        wanted.append(cafes.c.city_slug == city)
    if after is not None:
        wanted.append(tuple_(cafes.c.city_slug, cafes.c.slug) > tuple_(*after))
    return select(*CAFE_COLUMNS).where(*wanted).order_by(cafes.c.city_slug, cafes.c.slug).limit(limit)


@cache
def all_cities() -> Select[Any]:
    """A tenant's cities, by slug. Parameter: ``tenant``."""
    return select(cities).where(cities.c.tenant_id == _tenant).order_by(cities.c.slug)


@cache
def numbers_by_status() -> Select[Any]:
    """Rows (status, number) of a tenant's cafés. Parameter: ``tenant``."""
    return select(cafes.c.status, func.count().label("number")).where(_is_mine).group_by(cafes.c.status)


@cache
def live_jobs_of() -> Select[Any]:
    """The live job of each of these cafés. Parameters: ``tenant``, ``slots`` (list of unique slots)."""
    return select(jobs.c.id, jobs.c.unique_slot, jobs.c.status, jobs.c.version, jobs.c.progress).where(
        jobs.c.tenant_id == _tenant, jobs.c.unique_slot == func.any(bindparam("slots", type_=ARRAY(Text)))
    )


@cache
def import_cities() -> Insert:
    """Make the cities that are not there yet. Parameters: ``tenant``, lists ``city_slug``, ``city_name``,
    ``city_country_code``."""
    city = rows_of("city", slug=Text(), name=Text(), country_code=Text())
    source = select(_tenant, city.c.slug, city.c.name, city.c.country_code).order_by(city.c.slug)
    return insert(cities).from_select(["tenant_id", "slug", "name", "country_code"], source).on_conflict_do_nothing()


@cache
def import_cafes() -> ReturningInsert[Any]:
    """Make cafés, or refresh the names, addresses and place ids of those that are there; statuses stay.

    Parameters: ``tenant``, lists ``cafe_id``, ``cafe_name``, ``cafe_slug``, ``cafe_city_slug``, ``cafe_address``,
    ``cafe_status``, ``cafe_source``, ``cafe_source_place_id``. Returns id and ``is_new``.
    """
    cafe = rows_of(
        "cafe",
        id=Uuid(),
        name=Text(),
        slug=Text(),
        city_slug=Text(),
        address=Text(),
        status=Text(),
        source=Text(),
        source_place_id=Text(),
    )
    source = select(cafe.c.id, _tenant, *list(cafe.c)[1:]).order_by(cafe.c.city_slug, cafe.c.slug)
    columns = ["id", "tenant_id", *[column.name for column in list(cafe.c)[1:]]]
    statement = insert(cafes).from_select(columns, source)
    given = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[cafes.c.tenant_id, cafes.c.city_slug, cafes.c.slug],
        set_={
            "name": given.name,
            "address": func.coalesce(given.address, cafes.c.address),
            "source_place_id": func.coalesce(given.source_place_id, cafes.c.source_place_id),
            "updated_at": _now,
        },
    ).returning(cafes.c.id, (literal_column("xmax") == literal_column("0")).label("is_new"))


@cache
def store_details() -> Update:
    """All that the provider said of a café, at once. Parameters: ``tenant``, ``cafe_id``, ``by_job``,
    ``operational``, and ``new_<column>`` for address, latitude, longitude, rating, review_count, price_level,
    opening_hours, website, links, source_place_id.

    Not operational is CLOSED with the reason. What was published stays so, what a person has judged too; all else is
    PROCESSED. Returns status, and ``was``: the one before.
    """
    old = (
        select(cafes.c.id, cafes.c.status)
        .where(_is_mine, cafes.c.id == bindparam("cafe_id", type_=Uuid()))
        .with_for_update()
        .cte("old")
    )
    closed = ~bindparam("operational", type_=Boolean())
    kept = old.c.status.in_([CafeStatus.PUBLISHED, *JUDGED])
    status = case((closed, CafeStatus.CLOSED), (kept, old.c.status), else_=CafeStatus.PROCESSED)
    details = {
        name: bindparam(f"new_{name}", type_=cafes.c[name].type)
        for name in (
            *("address", "latitude", "longitude", "rating", "review_count", "price_level"),
            *("opening_hours", "website", "links", "source_place_id"),
        )
    }
    reason = case(
        (closed, "This place is not operational"),
        (old.c.status == CafeStatus.CLOSED, null()),
        else_=cafes.c.discard_reason,
    )
    return (
        update(cafes)
        .values(
            status=status,
            discard_reason=reason,
            processed=True,
            processed_at=_now,
            error_message=None,
            job_id=bindparam("by_job", type_=Uuid()),
            updated_at=_now,
            **details,
        )
        .where(cafes.c.id == old.c.id)
        .returning(cafes.c.status, old.c.status.label("was"))
    )


@cache
def note_failure() -> Update:
    """What an attempt failed of; ``is_final``: the café is in ERROR, unless people see it or have judged it.

    Parameters: ``tenant``, ``cafe_id``, ``by_job``, ``why``, ``is_final``.
    """
    kept = cafes.c.status.in_([CafeStatus.PUBLISHED, *JUDGED])
    final = and_(bindparam("is_final", type_=Boolean()), ~kept)
    return (
        update(cafes)
        .values(
            status=case((final, CafeStatus.ERROR), else_=cafes.c.status),
            error_message=bindparam("why", type_=Text()),
            job_id=bindparam("by_job", type_=Uuid()),
            updated_at=_now,
        )
        .where(_is_mine, cafes.c.id == bindparam("cafe_id", type_=Uuid()))
    )


@cache
def settle_failed() -> Update:
    """Cafés whose job has failed within a day without a word of its own: its worker died, or its deadline passed."""
    ended = jobs.c.finished_at
    return (
        update(cafes)
        .values(
            status=case((cafes.c.status.in_([CafeStatus.PUBLISHED, *JUDGED]), cafes.c.status), else_=CafeStatus.ERROR),
            error_message=jobs.c.error,
            job_id=jobs.c.id,
            updated_at=_now,
        )
        .where(
            jobs.c.status == literal_column("'FAILED'"),
            ended > _now - cast("1 day", INTERVAL),
            jobs.c.actor == PROCESS,
            cafes.c.tenant_id == jobs.c.tenant_id,
            cast(cafes.c.id, Text) == func.lower(jobs.c.kwargs.op("->>")("cafe_id")),
            cafes.c.updated_at < ended,
            cafes.c.job_id.is_distinct_from(jobs.c.id) | cafes.c.error_message.is_distinct_from(jobs.c.error),
        )
        .returning(cafes.c.id)
    )


@cache
def judge() -> Update:
    """A person's decision on one café. Parameters: ``tenant``, ``cafe_id``, ``new_status``, ``reason``, ``before``
    (list: statuses from which it may be made). Returns the city; no row: there is none, or its status forbids it."""
    return (
        update(cafes)
        .values(
            status=bindparam("new_status", type_=Text()),
            discard_reason=bindparam("reason", type_=Text()),
            error_message=None,
            updated_at=_now,
        )
        .where(
            _is_mine,
            cafes.c.id == bindparam("cafe_id", type_=Uuid()),
            cafes.c.status == func.any(bindparam("before", type_=ARRAY(Text))),
        )
        .returning(cafes.c.city_slug)
    )


def due_cafes(*, tenant: bool = False) -> Select[Any]:
    """Cafés to be processed now, those never processed first. Parameter: ``number`` at most (and ``tenant``).

    Due is what is NEW, what failed a day ago, and what was never fetched or 30 days ago and has not failed since
    yesterday; not what has a live job.
    """
    old = or_(cafes.c.processed_at.is_(None), cafes.c.processed_at < _now - cast("30 days", INTERVAL))
    due = or_(
        cafes.c.status == CafeStatus.NEW,
        and_(cafes.c.status == CafeStatus.ERROR, cafes.c.updated_at < _now - cast("1 day", INTERVAL)),
        and_(
            cafes.c.status.in_([CafeStatus.PROCESSED, CafeStatus.PUBLISHED]),
            old,
            # What people see stays PUBLISHED when its job fails: it waits as one in ERROR does.
            or_(cafes.c.error_message.is_(None), cafes.c.updated_at < _now - cast("1 day", INTERVAL)),
        ),
    )
    busy = (
        select(jobs.c.id)
        .where(jobs.c.tenant_id == cafes.c.tenant_id, jobs.c.unique_slot == slot_of(cast(cafes.c.id, Text)))
        .exists()
    )
    statement = select(cafes.c.id, cafes.c.tenant_id).where(due, ~busy)
    if tenant:
        statement = statement.where(_is_mine)
    return statement.order_by(cafes.c.processed_at.nulls_first(), cafes.c.id).limit(bindparam("number"))


def slot_of(cafe_id: Any) -> Any:
    """The unique key of a café's job."""
    return f"{PROCESS}:" + cafe_id


@cache
def hold_cities() -> Select[Any]:
    """Lock cities before their cafés are counted: a count that began earlier must not be written later.

    Parameters: ``tenant``, ``slugs`` (list).
    """
    return (
        select(cities.c.slug)
        .where(cities.c.tenant_id == _tenant, cities.c.slug == func.any(bindparam("slugs", type_=ARRAY(Text))))
        .order_by(cities.c.slug)
        .with_for_update()
    )


@cache
def count_cafes() -> Update:
    """Write how many published cafés cities have, none too. Parameters: ``tenant``, ``slugs`` (list).

    Returns slug, cafes_count and ``counted``: how many cafés that are.
    """
    published = (
        select(func.count())
        .where(
            cafes.c.tenant_id == cities.c.tenant_id,
            cafes.c.city_slug == cities.c.slug,
            cafes.c.status == CafeStatus.PUBLISHED,
        )
        .scalar_subquery()
    )
    return (
        update(cities)
        .values(cafes_count=published, counted_at=_now)
        .where(cities.c.tenant_id == _tenant, cities.c.slug == func.any(bindparam("slugs", type_=ARRAY(Text))))
        .returning(cities.c.slug, cities.c.cafes_count)
    )


def as_lists(records: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of records, for :func:`models.arrays.parameters`."""
    return {name: [record.get(name) for record in records] for name in names}
