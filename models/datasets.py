"""Datasets: a tenant's files of rows, kept as chunks of bytes in Postgres so that web and worker share no disk.

A dataset is a name for one *content*; contents are written chunk by chunk, each in a transaction of its own, and are
never changed. Replacing a dataset is one statement that points its name to another content, so whoever reads has
found either the old bytes or the new ones, and reads them to the end: what was replaced or deleted stays for
:data:`LINGER`. Everything that is past its ``expires_at`` is deleted by the pruner: unfinished uploads, what was
replaced, and datasets that nobody used for :data:`KEPT`.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Delete,
    ForeignKey,
    Index,
    Insert,
    Integer,
    Interval,
    LargeBinary,
    Select,
    Table,
    Text,
    Uuid,
    bindparam,
    cast,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from models.retention import expires
from models.tables import metadata

#: Bytes of one dataset.
MAX_BYTES: Final = 50 * 1024 * 1024
#: Bytes of one chunk; the last may be shorter. What an upload or a download holds in memory.
CHUNK_BYTES: Final = 256 * 1024
#: How long a dataset is kept after it was last written, read or processed.
KEPT: Final = timedelta(days=7)
#: How long an upload may take, and how long what was replaced or deleted can still be read by who has begun to.
LINGER: Final = timedelta(hours=1)
#: Contents per delete of the pruner; each may have 200 chunks.
ROOM: Final = 20

contents = Table(
    "dataset_contents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("media_type", Text, nullable=False),  # as it was sent, without parameters
    Column("size", BigInteger),  # bytes; null until all chunks are there
    Column("lines", BigInteger),  # line ends, and a last line without one
    Column("sha256", LargeBinary),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    CheckConstraint(f"size <= {MAX_BYTES}", name="size"),
    Index("ix_dataset_contents_expires_at", "expires_at"),
)

chunks = Table(
    "dataset_chunks",
    metadata,
    Column("content_id", Uuid, ForeignKey("dataset_contents.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),  # from 0
    Column("tenant_id", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    # Two tenants may choose the same id: neither learns of the other.
    Column("tenant_id", Text, primary_key=True),
    Column("id", Uuid, primary_key=True),
    Column("content_id", Uuid, ForeignKey("dataset_contents.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

#: What may be told of a dataset, and the content to read.
DATASET_COLUMNS: Final = (
    datasets.c.id,
    datasets.c.content_id,
    contents.c.media_type,
    contents.c.size,
    contents.c.lines,
    contents.c.sha256,
    datasets.c.created_at,
    datasets.c.updated_at,
    contents.c.expires_at,
)

_tenant = bindparam("tenant", type_=Text())
_dataset = bindparam("dataset", type_=Uuid())
_content = bindparam("content", type_=Uuid())


def _in(period: timedelta) -> Any:
    return func.now() + cast(period, Interval)


@cache
def begin_content() -> Insert:
    """A content without chunks. Parameters: ``content`` (a new id), ``tenant``, ``media_type``."""
    return insert(contents).values(
        id=_content, tenant_id=_tenant, media_type=bindparam("media_type", type_=Text()), expires_at=_in(LINGER)
    )


@cache
def add_chunk() -> ReturningInsert[Any]:
    """The next chunk; no row: the upload took longer than :data:`LINGER` and is gone.

    Parameters: ``content``, ``chunk`` (its number, from 0), ``bytes``.
    """
    source = select(
        contents.c.id,
        bindparam("chunk", type_=Integer()),
        contents.c.tenant_id,
        bindparam("bytes", type_=LargeBinary()),
    ).where(contents.c.id == _content)
    columns = ["content_id", "number", "tenant_id", "data"]
    return insert(chunks).from_select(columns, source).returning(chunks.c.number)


@cache
def put_dataset() -> ReturningInsert[Any]:
    """Finish a content and let a dataset be it, and what the dataset was before expire: one statement, all or nothing.

    Parameters: ``tenant``, ``dataset``, ``content``, ``bytes_in_all``, ``line_count``, ``digest``. Gives
    ``created_at`` and ``updated_at``, equal when it is new. No row: the upload took too long and is gone.
    """
    before = (
        update(contents)
        .where(
            contents.c.id == datasets.c.content_id,
            datasets.c.tenant_id == _tenant,
            datasets.c.id == _dataset,
            contents.c.id != _content,
        )
        .values(expires_at=_in(LINGER))
        .returning(contents.c.id)
        .cte("before")
    )
    finished = (
        update(contents)
        .where(contents.c.id == _content)
        .values(
            size=bindparam("bytes_in_all", type_=BigInteger()),
            lines=bindparam("line_count", type_=BigInteger()),
            sha256=bindparam("digest", type_=LargeBinary()),
            expires_at=_in(KEPT),
        )
        .returning(contents.c.id)
        .cte("finished")
    )
    put = insert(datasets).from_select(["tenant_id", "id", "content_id"], select(_tenant, _dataset, finished.c.id))
    put = put.add_cte(before)
    return put.on_conflict_do_update(
        index_elements=[datasets.c.tenant_id, datasets.c.id],
        set_={"content_id": put.excluded.content_id, "updated_at": func.clock_timestamp()},
    ).returning(datasets.c.created_at, datasets.c.updated_at)


@cache
def drop_content() -> Delete:
    """Forget an upload that did not come to its end; one that did stays. Parameter: ``content``."""
    return delete(contents).where(contents.c.id == _content, contents.c.size.is_(None))


@cache
def use_dataset() -> ReturningUpdate[Any]:
    """DATASET_COLUMNS of a dataset that is about to be read, kept for another :data:`KEPT`.

    Parameters: ``tenant``, ``dataset``. No row: there is none, or it has expired.
    """
    return (
        update(contents)
        .where(
            contents.c.id == datasets.c.content_id,
            datasets.c.tenant_id == _tenant,
            datasets.c.id == _dataset,
            contents.c.expires_at > func.now(),
        )
        .values(expires_at=_in(KEPT))
        .returning(*DATASET_COLUMNS)
    )


@cache
def one_chunk() -> Select[Any]:
    """The bytes of a chunk. Parameters: ``content``, ``chunk``."""
    return select(chunks.c.data).where(
        chunks.c.content_id == _content, chunks.c.number == bindparam("chunk", type_=Integer())
    )


@cache
def list_datasets(*, after: bool) -> Select[Any]:
    """DATASET_COLUMNS of a tenant's datasets in order of their ids.

    Parameters: ``tenant``, ``room`` (at most so many), and ``after`` (an id) when asked for.
    """
    found = (
        select(*DATASET_COLUMNS)
        .join(contents, contents.c.id == datasets.c.content_id)
        .where(datasets.c.tenant_id == _tenant, contents.c.expires_at > func.now())
        .order_by(datasets.c.id)
        .limit(bindparam("room", type_=Integer()))
    )
    return found.where(datasets.c.id > bindparam("after", type_=Uuid())) if after else found


@cache
def delete_dataset() -> ReturningDelete[Any]:
    """Delete a dataset; its content lingers. Parameters: ``tenant``, ``dataset``. No row: there was none."""
    gone = (
        update(contents)
        .where(
            contents.c.id == datasets.c.content_id,
            datasets.c.tenant_id == _tenant,
            datasets.c.id == _dataset,
            contents.c.expires_at > func.now(),
        )
        .values(expires_at=_in(LINGER))
        .returning(datasets.c.tenant_id, datasets.c.id, contents.c.id.label("content_id"))
        .cte("gone")
    )
    return (
        delete(datasets)
        .where(
            datasets.c.tenant_id == gone.c.tenant_id,
            datasets.c.id == gone.c.id,
            datasets.c.content_id == gone.c.content_id,
        )
        .returning(datasets.c.id)
    )


@expires(room=ROOM)
@cache
def delete_expired() -> Delete:
    """Contents past their time, ``room`` at most, with their chunks and the dataset that is this content, if any."""
    past = contents.c.expires_at < func.now()
    picked = (
        select(contents.c.id)
        .where(past)
        .order_by(contents.c.expires_at)
        .limit(bindparam("room", type_=Integer()))
        .with_for_update(skip_locked=True)
    )
    return delete(contents).where(contents.c.id.in_(picked), past)
