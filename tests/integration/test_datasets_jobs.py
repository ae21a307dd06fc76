"""``data_processing`` in a worker: each operation, tenants, a cancel, and bounded memory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID, uuid4, uuid5

import psutil
import pytest

from actors import data_processing
from actors._datasets import store
from actors.data_processing import process_data
from actors.runtime.errors import PermanentError
from models import ledger
from tests.integration import worker_support
from tests.integration.worker_support import CANCELLED, COMPLETED, FAILED, RUNNING, Stage
from tests.support import wait_for

pytestmark = pytest.mark.once

stage = worker_support.stage
CSV = "city,price\nBern,1.50\nBasel,2.25\nBern,0.10\n,3\n"
JSON = "application/x-ndjson"


@pytest.fixture
def working(stage: Stage) -> Stage:
    """A worker that knows data_processing, and two tenants."""
    stage.execute("INSERT INTO callboard.tenants (id) VALUES ('acme'), ('other')")
    stage.actor(process_data.fn, actor_name="data_processing", max_retries=2)
    stage.start(2)
    return stage


def put(stage: Stage, tmp_path: Path, data: str, media_type: str = "text/csv", tenant: str = "acme") -> UUID:
    path, dataset = tmp_path / "put", uuid4()
    path.write_text(data, newline="")
    store.save(stage.engine, tenant, dataset, media_type, path, content=uuid4(), check=lambda: None)
    return dataset


def get(stage: Stage, tmp_path: Path, dataset: str, tenant: str = "acme") -> str:
    store.fetch(stage.engine, tenant, UUID(dataset), tmp_path / "got", lambda: None)
    return (tmp_path / "got").read_bytes().decode()


def send(stage: Stage, dataset: UUID, operation: str, tenant: str = "acme", **more: Any) -> UUID:
    actor = stage.broker.get_actor("data_processing")
    kwargs = {"data_id": str(dataset), "operation": operation, **more}
    return UUID(actor.send_with_options(kwargs=kwargs, tenant_id=tenant).message_id)


def result(stage: Stage, job: UUID) -> Any:
    row = stage.wait_until_ended(job, 30)
    assert row["status"] == COMPLETED, row["error"]
    return row["result"]


def test_a_profile_says_what_is_in_each_column(working: Stage, tmp_path: Path) -> None:
    job = send(working, put(working, tmp_path, CSV), "profile")
    found = result(working, job)
    assert (found["rows"], found["matching"]) == (4, 4)
    city, price = found["columns"]
    assert city == {
        "name": "city",
        "type": "text",
        "nulls": 1,
        "distinct": 2,
        "min": "Basel",
        "max": "Bern",
        "top": [{"value": "Bern", "count": 2}, {"value": "Basel", "count": 1}],
    }
    assert (price["type"], price["min"], price["max"], price["mean"]) == ("decimal", "0.10", "3.00", "1.7125")
    assert price["quantiles"] == {"p25": "0.10", "p50": "1.50", "p75": "2.25", "p95": "3.00"}
    progress = working.job(job)["progress"]
    assert (progress["current"], progress["total"], progress["message"]) == (6, 6, "done")


def test_an_aggregate_has_figures_per_group(working: Stage, tmp_path: Path) -> None:
    dataset = put(working, tmp_path, CSV)
    measures = [{"op": "count"}, {"op": "sum", "column": "price", "label": "revenue"}]
    where = [{"column": "price", "op": "<", "value": 3}]
    found = result(working, send(working, dataset, "aggregate", group_by=["city"], measures=measures, where=where))
    assert (found["rows"], found["matching"], found["truncated"]) == (4, 3, False)
    assert found["columns"] == [
        {"name": "city", "type": "text"},
        {"name": "count", "type": "integer"},
        {"name": "revenue", "type": "decimal"},
    ]
    assert found["groups"] == [
        {"city": "Basel", "count": 1, "revenue": "2.25"},
        {"city": "Bern", "count": 2, "revenue": "1.60"},
    ]


def test_a_filter_makes_a_dataset_of_the_same_tenant(working: Stage, tmp_path: Path) -> None:
    lines = ['{"n": 1}\n', '{"n":  2.0}\n', '{"n": "2"}\n', '{"m": 2}']
    dataset = put(working, tmp_path, "".join(lines[:2]) + lines[3], JSON)
    job = send(working, dataset, "filter", where=[{"column": "n", "op": ">", "value": 1}])
    made = result(working, job)["dataset"]
    assert made["id"] == str(uuid5(job, "dataset"))
    assert (made["rows"], made["bytes"], made["content_type"]) == (1, len(lines[1]), JSON)
    assert made["link"] == f"/datasets/{made['id']}"
    assert get(working, tmp_path, made["id"]) == lines[1]
    with pytest.raises(store.PermanentError, match="there is no dataset"):
        get(working, tmp_path, made["id"], "other")
    assert result(working, send(working, UUID(made["id"]), "profile"))["rows"] == 1


def test_a_filter_that_runs_again_replaces_what_it_wrote(working: Stage, tmp_path: Path) -> None:
    job = send(working, put(working, tmp_path, CSV), "filter", where=[{"column": "city", "op": "is null"}])
    made = result(working, job)["dataset"]
    assert get(working, tmp_path, made["id"]) == "city,price\n,3\n"
    working.execute(
        "UPDATE callboard.jobs SET status = 'PENDING', finished_at = NULL, run_at = now(), offered_at = NULL, "
        "attempt_token = NULL, worker_id = NULL, max_attempts = 5 WHERE id = :id",
        id=job,
    )
    row = wait_for(
        lambda: (row := working.job(job))["attempts"] == 2 and row["status"] == COMPLETED and row, 30, what="a re-run"
    )
    assert row["result"]["dataset"]["id"] == made["id"]
    assert get(working, tmp_path, made["id"]) == "city,price\n,3\n"


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        (None, {}, "there is no dataset"),
        ("a,b\n1\n", {}, "line 2: 1 fields where the header has 2"),
        ("a\nx\n", {"operation": "aggregate", "group_by": ["b"]}, "there is no column 'b'; there are: a"),
    ],
)
def test_what_can_never_succeed_is_tried_once(
    working: Stage, tmp_path: Path, data: str | None, more: dict[str, Any], said: str
) -> None:
    dataset = put(working, tmp_path, data) if data else uuid4()
    row = working.wait_until_ended(send(working, dataset, **{"operation": "profile", **more}), 30)
    assert (row["status"], row["attempts"]) == (FAILED, 1)
    assert said in row["error"]


def test_another_tenants_dataset_is_not_there(working: Stage, tmp_path: Path) -> None:
    dataset = put(working, tmp_path, CSV)
    row = working.wait_until_ended(send(working, dataset, "profile", tenant="other"), 30)
    assert row["status"] == FAILED
    assert "there is no dataset" in row["error"]


def test_a_cancel_stops_a_query_that_runs(working: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Event()
    places: list[Path] = []

    def endless(*given: Any) -> Any:
        [engine] = [value for value in given if hasattr(value, "batches")]
        begun.set()
        return engine.rows("SELECT count(*) FROM range(10000000) a, range(300) b WHERE (a.range*b.range)%7=3")

    fetch: Callable[..., Any] = store.fetch

    def noted(engine: Any, tenant: str, dataset: UUID, path: Path, check: Any) -> Any:
        places.append(path.parent)
        return fetch(engine, tenant, dataset, path, check)

    monkeypatch.setattr(data_processing, "aggregate", endless)
    monkeypatch.setattr(store, "fetch", noted)
    job = send(working, put(working, tmp_path, CSV), "aggregate", group_by=["city"])
    assert begun.wait(20)
    working.wait_for_status(job, RUNNING)
    with working.engine.connect() as connection:
        connection.execute(ledger.cancel(), {"job_id": job, "tenant": "acme"}).all()
    row = working.wait_until_ended(job)
    assert row["status"] == CANCELLED
    assert row["finished_at"] - row["cancel_requested_at"] <= timedelta(seconds=2)
    wait_for(lambda: not places[0].exists(), what="the job's folder is removed")


PROCESS = """
import sys
from pathlib import Path
from actors import data_processing
from actors._datasets import engine
from actors._datasets.aggregate import aggregate, figure
from actors._datasets.payload import Measure
from actors._datasets.profile import profile_column
from actors._datasets.records import Source
from actors._datasets.staging import Staged
import duckdb

print("ready", flush=True)
sys.stdin.readline()
folder, engine.MEMORY = Path(sys.argv[1]), sys.argv[2]
staged = Staged(Source(folder / "data", "text/csv"), folder / "staged", lambda: None)
with engine.engine_on(folder, staged.path, lambda: None) as opened:
    columns = staged.types_of(staged.columns, opened)
    staged.load(columns.values(), "true", [], opened)
    print(profile_column(columns["id"], opened)["distinct"])
    aggregate([columns["id"]], [figure(Measure(op="count"), columns)], opened)
"""


def process_distinct(folder: Path, *, mebibytes: int, memory: str) -> tuple[float, float]:
    """MiB at most and seconds that a profile and an aggregate of distinct values take, in a process of their own."""
    with (folder / "data").open("w", newline="") as file:
        size, number = file.write("id\n"), 0
        while size < mebibytes * 1024 * 1024 - 16:
            number += 1
            size += file.write(f"{number}\n")
    command = [sys.executable, "-c", PROCESS, str(folder), memory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        watched = psutil.Process(child.pid)
        peak = before = watched.memory_info().rss
        child.stdin.write("go\n")
        child.stdin.close()
        begun = time.monotonic()
        while child.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, watched.memory_info().rss)
            time.sleep(0.01)
        assert child.returncode == 0
        assert child.stdout.read() == f"{number}\n", number
    return (peak - before) / 1024 / 1024, time.monotonic() - begun


def test_distinct_values_need_bounded_memory(tmp_path: Path) -> None:
    mib, seconds = process_distinct(tmp_path, mebibytes=10, memory="48MB")
    print(f"10 MiB of distinct values within 48 MB: {mib:.0f} MiB, {seconds:.1f} s")
    assert mib < 140  # DuckDB's own 48 MB, and what its allocator and Python hold beside that


def test_an_attempt_that_was_taken_back_writes_no_dataset(
    working: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = put(working, tmp_path, CSV)
    save: Callable[..., Any] = store.save
    refused: list[BaseException] = []

    def late(*given: Any, **named: Any) -> Any:
        working.execute(
            "UPDATE callboard.jobs SET attempt_token = NULL, status = 'PENDING', run_at = now() + interval '1 hour'"
        )
        try:
            return save(*given, **{**named, "check": lambda: None})  # it has not heard of it yet
        except BaseException as error:
            refused.append(error)
            raise

    monkeypatch.setattr(store, "save", late)
    job = send(working, dataset, "filter", where=[{"column": "price", "op": "<", "value": 2}])
    wait_for(lambda: refused, what="the write is refused")
    with pytest.raises(PermanentError):
        get(working, tmp_path, str(uuid5(job, "dataset")), "acme")
