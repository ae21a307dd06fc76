"""The cage around dramatiq-dashboard: what is used of it is there, and what is not reaches nobody."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from dramatiq_dashboard.interface import Job as ItsJob
from dramatiq_dashboard.interface import Queue as ItsQueue
from dramatiq_dashboard.interface import RedisInterface
from dramatiq_dashboard.interface import Worker as ItsWorker
from jinja2 import PackageLoader
from starlette.requests import Request

from web import dashboard, queue_ledger
from web.auth import Caller

ITS = PackageLoader("dramatiq_dashboard", "templates")
REPLACED = {"_base.html", "_action.html"}


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "dramatiq_dashboard.application", None)
    dashboard.dashboard.cache_clear()
    yield
    dashboard.dashboard.cache_clear()


def source(name: str) -> str:
    return ITS.get_source(dashboard.dashboard().templates, name)[0]


def test_the_interface_has_the_methods_that_read_and_no_other() -> None:
    public = {name for name in vars(RedisInterface) if not name.startswith("_")}
    ours = {name for name in vars(queue_ledger.LedgerInterface) if not name.startswith("_")}
    assert ours == public - {"delete_message", "qualify"}
    for name in ("get_queue", "get_jobs", "get_job"):
        its = inspect.signature(getattr(RedisInterface, name)).parameters
        assert list(inspect.signature(getattr(queue_ledger.LedgerInterface, name)).parameters) == list(its)


@pytest.mark.parametrize(
    ("ours", "its"), [(queue_ledger.Queue, ItsQueue), (queue_ledger.Worker, ItsWorker), (queue_ledger.Job, ItsJob)]
)
def test_what_the_interface_returns_has_the_same_attributes(ours: Any, its: Any) -> None:
    assert set(its.__dataclass_fields__) <= set(ours._fields)


def test_its_templates_are_what_the_cage_was_built_for() -> None:
    """Only a replaced template switches escaping off or has a form, a style, or an address of its own."""
    assert set(ITS.list_templates()) >= REPLACED
    filters: set[str] = set()
    for name in set(ITS.list_templates()) - REPLACED:
        assert not re.search(
            r"\|\s*safe|autoescape|<form|<button|<script|<style|\sstyle=|\son\w+=|https?:", source(name)
        )
        filters |= set(re.findall(r"\|\s*(\w+)", source(name)))
    assert filters <= {"short", "isoformat", "timeago", "pformat", "lower", "capitalize"}


def test_what_it_renders_is_without_buttons_and_escaped() -> None:
    job = queue_ledger.Job(
        "1", SimpleNamespace(message_id="1"), datetime.now(UTC), datetime.now(UTC), 0, "<b>x</b>", "<b>actor</b>",
        "q", ["<b>"], {"<b>": "<b>"}, {"<b>": "<b>"},
    )  # fmt: skip
    templates = dashboard.dashboard().templates
    queue = queue_ledger.Queue("<b>", 1_234_567, 0, 0)
    context = {"queue": queue, "current_tab": "failed", "queue_for_tab": "q.XQ", "cursor": None}
    listed = templates.get_template("queue.html").render(context | {"jobs": [job]})
    whole = templates.get_template("job.html").render(context | {"job": job})
    for shown in (listed, whole):
        assert not re.search(r"<(b|form|button|html|style)\b", shown)
    assert "1,234,567" in listed  # not 1.23M


def test_addresses_are_quoted() -> None:
    assert dashboard.make_uri() == dashboard.make_uri("") == "/dashboard/queues"
    assert dashboard.make_uri("queues", 'a/b?"#') == "/dashboard/queues/queues/a%2Fb%3F%22%23"
    assert dashboard.make_uri("queues", "q", "failed", params={"cursor": 7}).endswith("/queues/q/failed?cursor=7")


def test_long_arguments_are_cut() -> None:
    shown = dashboard._argument("x" * 100_000)
    assert len(shown) < dashboard.SHOWN_CHARACTERS + 100
    assert "cut" in shown


def test_a_name_is_never_taken_for_a_list() -> None:
    assert queue_ledger._list_of("mail") == ("mail", "standard")
    assert queue_ledger._list_of("mail.DQ") == ("mail", "delayed")
    assert queue_ledger._list_of("mail.XQ") == ("mail", "failed")


def test_a_job_that_waits_to_retry_counts_the_retry() -> None:
    for status, attempts, retries in (("PENDING", 0, 0), ("PENDING", 1, 1), ("RUNNING", 1, 0), ("FAILED", 3, 2)):
        row = SimpleNamespace(
            id=UUID(int=1), actor="a", args="[]", kwargs="{}", run_at=None, created_at=None, status=status,
            attempts=attempts,
        )  # fmt: skip
        assert queue_ledger._listed(row).retries == retries


@pytest.mark.usefixtures("not_installed")
def test_without_the_extra_the_page_names_it() -> None:
    scope = {"type": "http", "method": "GET", "path": "/dashboard/queues", "query_string": b"", "headers": []}
    operator = Caller("default", "session:00", "olga", "token")
    response = asyncio.run(dashboard.get_queues.__wrapped__(Request(scope), operator))  # type: ignore[attr-defined]
    assert response.status_code == 501
    assert "the extra &#34;dashboard&#34;" in response.body.decode()
