"""Bytes of datasets between Postgres and a job's own folder, one chunk at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine

from actors.runtime.errors import CallboardError, PermanentError
from models import datasets
from models.engine import transaction
from models.rows import one_row


class DatasetGone(CallboardError):
    """The dataset's bytes were deleted while they were read; another attempt finds what is there now."""


class Written(NamedTuple):
    """A dataset that was just written."""

    id: UUID
    size: int
    expires_at: datetime


def fetch(engine: Engine, tenant: str, dataset: UUID, path: Path, check: Callable[[], None]) -> dict[str, Any]:
    """Write a dataset's bytes to ``path``; returns its row of DATASET_COLUMNS.

    Raises:
      PermanentError: the tenant has no such dataset. DatasetGone: see there.
    """
    with engine.connect() as connection:
        row = one_row(connection.execute(datasets.use_dataset(), {"tenant": tenant, "dataset": dataset}))
    if row is None:
        raise PermanentError(f"there is no dataset {dataset}: it was never put, deleted, or has expired")
    left, number = row["size"], 0
    with path.open("wb") as file:
        while left > 0:
            check()
            with engine.connect() as connection:
                statement, parameters = datasets.one_chunk(), {"content": row["content_id"], "chunk": number}
                data = connection.execute(statement, parameters).scalar_one_or_none()
            if data is None:
                raise DatasetGone()
            file.write(data)
            left, number = left - len(data), number + 1
    return row


def save(
    engine: Engine,
    tenant: str,
    dataset: UUID,
    media_type: str,
    path: Path,
    *,
    content: UUID,
    check: Callable[[], None],
    fence: Callable[[Connection], None] = lambda _: None,
) -> Written:
    """Let the file at ``path`` be the tenant's dataset, whole or not at all.

    Args:
      content: a new id for its bytes.
      fence: called in the transaction that lets the dataset be this file; raises when it must not be.
    """
    digest, size, lines, last = hashlib.sha256(), 0, 0, b"\n"
    with engine.connect() as connection:
        begun = {"content": content, "tenant": tenant, "media_type": media_type}
        connection.execute(datasets.begin_content(), begun)
    with path.open("rb") as file:
        number = 0
        while data := file.read(datasets.CHUNK_BYTES):
            check()
            digest.update(data)
            size, lines, last = size + len(data), lines + data.count(b"\n"), data[-1:]
            with engine.connect() as connection:
                parameters = {"content": content, "chunk": number, "bytes": data}
                if connection.execute(datasets.add_chunk(), parameters).first() is None:
                    raise DatasetGone()
            number += 1
    figures = {"bytes_in_all": size, "line_count": lines + (last != b"\n"), "digest": digest.digest()}
    with transaction(engine).begin() as connection:
        fence(connection)
        put = {"tenant": tenant, "dataset": dataset, "content": content, **figures}
        row = one_row(connection.execute(datasets.put_dataset(), put))
    if row is None:
        raise DatasetGone()
    return Written(dataset, size, row["updated_at"] + datasets.KEPT)
