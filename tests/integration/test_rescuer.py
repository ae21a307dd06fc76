"""The rescuer alone: what it reads on its host, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import event

from actors.runtime import marks
from actors.runtime.marks import SLOT
from actors.runtime.rescuer import Rescuer
from tests.integration import worker_support
from tests.integration.worker_support import Stage

stage = worker_support.stage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of marks of this test's own."""
    own = tmp_path / "marks"
    own.mkdir(mode=0o700)
    monkeypatch.setattr(marks, "marks_folder", lambda: own)
    return own


def test_marks_of_another_callboard_cost_a_question_once_and_stay_where_they_are(stage: Stage, folder: Path) -> None:
    """Every process looks at the folder four times a second; a host may keep dead marks of a database long gone."""
    for _ in range(20):
        (folder / f"{uuid4()}.marks").write_bytes(bytes(SLOT))
    rescuer = Rescuer(stage.broker)
    rescuer.report_local_deaths()
    asked: list[str] = []
    event.listen(stage.broker.resources.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    rescuer.report_local_deaths()
    assert len(asked) <= 1
    assert len(list(folder.iterdir())) == 20


def test_marks_of_a_worker_that_was_buried_already_are_removed(stage: Stage, folder: Path) -> None:
    worker = uuid4()
    stage.execute(
        "INSERT INTO callboard.workers (id, host_id, hostname, pid, threads, queues, version, dead_at, death)"
        " VALUES (:id, 'x', 'x', 1, 1, '{x}', '-', now(), 'crashed')",
        id=worker,
    )
    (folder / f"{worker}.marks").write_bytes(bytes(SLOT))
    assert Rescuer(stage.broker).report_local_deaths() == 0
    assert list(folder.iterdir()) == []
    assert [row["death"] for row in stage.workers()] == ["crashed"]
