"""``data_processing``: profile, aggregate or filter a dataset of ``PUT /datasets/{dataId}``; see docs/how-to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4, uuid5

import dramatiq

from actors._datasets import store
from actors._datasets.aggregate import aggregate, figure
from actors._datasets.engine import Engine, engine_on
from actors._datasets.filtering import write_matching
from actors._datasets.kinds import Column
from actors._datasets.payload import DataPayload
from actors._datasets.profile import profile_column
from actors._datasets.records import Source
from actors._datasets.staging import Staged
from actors._datasets.where import where
from actors.runtime import current_job, job_type
from actors.runtime.errors import PermanentError

if TYPE_CHECKING:
    from actors.runtime.broker import CallboardBroker
    from actors.runtime.current import CurrentJob

#: Milliseconds of an attempt: what the queries may take, and a minute for reading and writing.
TIME_LIMIT_MS: Final = 300_000
#: Steps before the operation's own: fetched, read, typed, loaded.
_STEPS: Final = 4


class _Progress:
    """Says which step is done; the operation may have steps of its own."""

    def __init__(self, job: CurrentJob, steps: int) -> None:
        self._job = job
        self._done = 0
        self.steps = steps

    def next(self, doing: str) -> None:
        self._job.check()
        self._job.progress(self._done, self.steps, doing)
        self._done += 1

    def end(self) -> None:
        self._job.progress(self.steps, self.steps, "done")


@job_type(DataPayload)
@dramatiq.actor(actor_name="data_processing", max_retries=2, time_limit=TIME_LIMIT_MS)
def process_data(
    data_id: str,
    operation: str,
    group_by: list[str] | None = None,
    measures: list[dict[str, Any]] | None = None,
    where: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Profile, aggregate or filter a dataset; needs the extra ``data`` (DuckDB)."""
    kwargs = {"data_id": data_id, "operation": operation, "group_by": group_by, "measures": measures, "where": where}
    payload = DataPayload.model_validate(kwargs, by_name=True)
    try:
        import duckdb  # noqa: F401 - only who processes data needs it
    except ModuleNotFoundError:
        raise PermanentError("DuckDB is not installed in this worker: pip install 'callboard[data]'") from None
    job = current_job()
    with tempfile.TemporaryDirectory(prefix="callboard-data-") as folder:
        return _Processing(payload, job, Path(folder)).run()


class _Processing:
    """One attempt."""

    def __init__(self, payload: DataPayload, job: CurrentJob, folder: Path) -> None:
        self.payload = payload
        self.job = job
        self.folder = folder
        self.progress = _Progress(job, _STEPS + 1)
        self.database = cast("CallboardBroker", dramatiq.get_broker()).resources.engine

    def run(self) -> dict[str, Any]:
        """Fetch, read, type, load, and do what was asked for."""
        self.progress.next("fetching the dataset")
        original = self.folder / "original"
        self.row = store.fetch(self.database, self.job.tenant_id, self.payload.data_id, original, self.job.check)
        self.progress.next("reading the rows")
        self.source = Source(original, self.row["media_type"])
        staged = Staged(self.source, self.folder / "staged", self.job.check)
        with engine_on(self.folder, staged.path, self.job.check) as engine:
            self.progress.next("finding the types")
            columns = staged.types_of(self._columns_used(staged.columns), engine)
            self.progress.next("loading the columns")
            matching = staged.load(columns.values(), *where(self.payload.where or [], columns), engine)
            found = self._operation()(engine, columns)
        self.progress.end()
        return {
            "operation": self.payload.operation,
            "data_id": str(self.payload.data_id),
            "rows": staged.rows,
            "matching": matching,
            **found,
        }

    def _operation(self) -> Callable[[Engine, dict[str, Column]], dict[str, Any]]:
        return {"profile": self._profile, "aggregate": self._aggregate, "filter": self._filter}[self.payload.operation]

    def _columns_used(self, there: list[str]) -> Iterable[str]:
        """Names, each once, in the order in which the dataset has them when all are used."""
        if self.payload.operation == "profile":
            return there
        measured = [measure.column for measure in self.payload.measures or () if measure.column is not None]
        compared = [condition.column for condition in self.payload.where or ()]
        return dict.fromkeys([*(self.payload.group_by or ()), *measured, *compared])

    def _profile(self, engine: Engine, columns: dict[str, Column]) -> dict[str, Any]:
        self.progress.steps = _STEPS + len(columns)
        described = []
        for column in columns.values():
            self.progress.next(f"column {column.name}")
            described.append(profile_column(column, engine))
        return {"columns": described}

    def _aggregate(self, engine: Engine, columns: dict[str, Column]) -> dict[str, Any]:
        self.progress.next("aggregating")
        groups = [columns[name] for name in self.payload.group_by or ()]
        figures = [figure(measure, columns) for measure in self.payload.measures or ()]
        return aggregate(groups, figures, engine)

    def _filter(self, engine: Engine, columns: dict[str, Column]) -> dict[str, Any]:
        del columns
        self.progress.next("copying the rows that match")
        target = self.folder / "kept"
        kept = write_matching(self.source, target, engine)
        # The same in every attempt of the job: one that is repeated replaces what it wrote before.
        dataset = uuid5(self.job.id, "dataset")
        written = store.save(
            self.database,
            self.job.tenant_id,
            dataset,
            self.row["media_type"],
            target,
            content=uuid4(),
            check=self.job.check,
            fence=self.job.fence,
        )
        return {
            "dataset": {
                "id": str(written.id),
                "rows": kept,
                "bytes": written.size,
                "content_type": self.row["media_type"],
                "expires_at": written.expires_at.isoformat().replace("+00:00", "Z"),
                "link": f"/datasets/{written.id}",
            },
        }
