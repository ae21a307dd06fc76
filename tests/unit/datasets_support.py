"""Queries on a dataset without a database and without a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from actors._datasets.aggregate import aggregate, figure
from actors._datasets.engine import Engine, engine_on
from actors._datasets.filtering import write_matching
from actors._datasets.kinds import Column
from actors._datasets.payload import Condition, Measure
from actors._datasets.profile import profile_column
from actors._datasets.records import CSV, JSON_LINES, Source
from actors._datasets.staging import Staged
from actors._datasets.where import where


def never() -> None:
    """Nobody cancels."""


class Opened:
    """A dataset that was read."""

    def __init__(self, staged: Staged, engine: Engine) -> None:
        self.staged = staged
        self.engine = engine

    def types(self) -> dict[str, Column]:
        """All columns."""
        return self.staged.types_of(self.staged.columns, self.engine)

    def load(self, *conditions: dict[str, Any]) -> int:
        """Table ``data`` with all columns."""
        columns = self.types()
        made = [Condition.model_validate(condition) for condition in conditions]
        self.engine.rows("DROP TABLE IF EXISTS data")
        return self.staged.load(columns.values(), *where(made, columns), self.engine)

    def aggregate(self, group_by: list[str], measures: list[dict[str, Any]], *conditions: dict[str, Any]) -> Any:
        """As the job would."""
        self.load(*conditions)
        columns = self.types()
        figures = [figure(Measure.model_validate(measure), columns) for measure in measures]
        return aggregate([columns[name] for name in group_by], figures, self.engine)

    def profile(self, name: str) -> dict[str, Any]:
        """One column."""
        self.load()
        return profile_column(self.types()[name], self.engine)

    def filter(self, *conditions: dict[str, Any]) -> str:
        """The text of the records that match."""
        kept = self.load(*conditions)
        target = self.staged.path.with_name("kept")
        assert write_matching(self.staged.source, target, self.engine) == kept
        return target.read_bytes().decode()


@contextmanager
def opened(
    data: str | bytes, *, json: bool = False, check: Callable[[], None] = never, time_limit_s: float = 60
) -> Iterator[Opened]:
    """A dataset with these bytes."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        original = folder / "original"
        original.write_bytes(data.encode() if isinstance(data, str) else data)
        staged = Staged(Source(original, JSON_LINES[0] if json else CSV), folder / "staged", check)
        with engine_on(folder, staged.path, check, time_limit_s=time_limit_s) as engine:
            yield Opened(staged, engine)
