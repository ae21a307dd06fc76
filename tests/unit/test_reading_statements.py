"""What a request reads with is compiled once: a statement without a cache key costs milliseconds at every execution."""

from __future__ import annotations

import itertools

from models import queries, queue_counts
from models.board import board_page
from models.newest import Shape
from models.state import Status

SHAPES = [
    Shape(statuses, *flags)
    for statuses in ((), (Status.RUNNING,), (Status.FAILED, Status.CANCELLED), tuple(Status))
    for flags in itertools.product((False, True), repeat=3)
]


def test_they_can_be_kept_compiled() -> None:
    statements = [page(shape) for page in (queries.page_of_jobs, board_page) for shape in SHAPES]
    statements += [queue_counts.of_tenant(), queue_counts.of_all_tenants(), queries.counts(), queries.finished_lately()]
    statements += [queries.one_job(), queries.snapshot(), queries.finished_since(), queries.changed_lately()]
    assert [statement for statement in statements if statement._generate_cache_key() is None] == []


def test_one_shape_is_one_statement() -> None:
    assert queries.page_of_jobs(SHAPES[3]) is queries.page_of_jobs(Shape(*SHAPES[3]))
