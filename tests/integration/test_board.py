"""The board's pages as a browser without JavaScript sees them."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine, func, insert, select, update

from actors.runtime.sending import our_broker
from models import tenancy
from models.tables import jobs
from tests.support import wait_for
from web.app import create_app
from web.board import PAGE_JOBS
from web.pages import CONTENT_SECURITY_POLICY

PAGES = ("/", "/send", "/send?type=webhook", "/?status=FAILED&type=sleep", "/sign-in")


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[httpx.Client]:
    """A visitor without a cookie."""
    our_broker().resources.close()
    server = uvicorn.Server(uvicorn.Config(create_app(), port=0, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, what="the server listens")
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)
        our_broker().resources.close()


@pytest.fixture
def browser(client: httpx.Client, engine: Engine) -> httpx.Client:
    """A visitor who is signed in to the tenant ``default``."""
    with engine.connect() as connection:
        tenancy.set_operator(connection, "operator", "a password for tests")
        token = tenancy.create_sign_in_link(connection, "operator")
    assert client.get("/sign-in", params={"token": token}).status_code == 303
    return client


def csrf(browser: httpx.Client) -> str:
    """The session's token, as a form carries it."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/send").text)
    assert found
    return found[1]


def post(browser: httpx.Client, path: str, **fields: str) -> Any:
    """Post a form with the session's token."""
    return browser.post(path, data={"csrf_token": csrf(browser), **fields})


def count(engine: Engine) -> int:
    """How many jobs there are."""
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(jobs)).scalar_one()


def store(engine: Engine, number: int = 1, **values: Any) -> list[UUID]:
    """Jobs straight into the table, oldest first."""
    made = [UUID(int=(0x0190_0000_0000_7000_8000 << 48) | (i + 1)) if number > 1 else uuid4() for i in range(number)]
    row = {"tenant_id": "default", "actor": "sleep", "queue": "default", "args": [], "kwargs": {"delay_ms": 1}}
    row |= {"options": {}, "message_timestamp": 0, "status": "COMPLETED", "max_attempts": 3, **values}
    with engine.connect() as connection:
        connection.execute(insert(jobs), [{"id": job_id, **row} for job_id in made])
    return made


@pytest.mark.parametrize("path", ["/", "/send", f"/board/jobs/{UUID(int=1)}"])
def test_who_is_not_signed_in_is_sent_to_sign_in(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in"


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_the_strict_headers_and_nothing_inline(browser: httpx.Client, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", answer.text)


@pytest.mark.parametrize("file", ["callboard.css", "board.js", "job.js", "live.js", "time.js", "favicon.svg"])
def test_what_a_page_needs_is_served(client: httpx.Client, file: str) -> None:
    answer = client.get(f"/static/{file}")
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(f"/static/{file}", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_an_empty_board_says_how_to_send_a_job(browser: httpx.Client) -> None:
    text = browser.get("/").text
    assert "No jobs yet" in text
    assert f"curl {browser.base_url}/jobs" in text


def test_a_job_sent_by_the_form_is_on_the_board_and_has_a_page(browser: httpx.Client, engine: Engine) -> None:
    answer = post(browser, "/send", type="sleep", **{"p.delayMs": "1000", "o.delay": "3600000", "o.unique_key": "a<b"})
    assert answer.status_code == 303
    path = answer.headers["location"]
    page = browser.get(path).text
    assert "PENDING" in page
    assert "&#34;delayMs&#34;: 1000" in page
    assert "a&lt;b" in page
    assert path in browser.get("/").text
    again = post(browser, "/send", type="sleep", **{"p.delayMs": "1", "o.unique_key": "a<b"})
    assert again.headers["location"] == f"{path}?duplicate"
    assert "Nothing new was sent" in browser.get(again.headers["location"]).text
    assert count(engine) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": "sleep", "p.delayMs": ""}, "Field required"),
        ({"type": "sleep", "p.delayMs": "-1"}, "greater than or equal to 0"),
        ({"type": "sleep", "p.delayMs": "soon"}, "valid integer"),
        ({"type": "sleep", "p.delayMs": "1", "o.priority": "77"}, "from -10 to 10"),
        ({"type": "sleep", "p.delayMs": "1", "o.delay": "1.5"}, "whole number"),
        ({"type": "sleep", "p.delayMs": "1", "o.max_attempts": "many"}, "must be"),
        ({"type": "sleep", "p.delayMs": "1", "o.unique_key": "k" * 256}, "255"),
        ({"type": "webhook", "p.url": "file:///etc/passwd"}, "http"),
        ({"type": "webhook", "p.url": "http://a.example/", "p.body": "{"}, "not valid JSON"),
        ({"type": "webhook", "p.url": "http://a.example/", "p.body": "1e400"}, "not JSON"),
        ({"type": "webhook", "p.url": "http://a.example/", "p.headers": '{"a b": "c"}'}, "a b"),
        ({"type": "webhook", "p.url": "http://a.example/\0"}, ""),
        ({"type": "webhook", "p.url": "nope", "p.body": "{"}, "not valid JSON"),
    ],
)
def test_a_faulty_form_comes_back_with_its_values_and_stores_nothing(
    browser: httpx.Client, engine: Engine, fields: dict[str, str], said: str
) -> None:
    answer = post(browser, "/send", **fields)
    assert answer.status_code == 422
    faults = re.findall(r'<p class="fault" id="([^"]+)">(.*?)</p>', answer.text)
    assert faults
    assert any(said in html.unescape(text) for _, text in faults)
    for fault_id, _ in faults:
        assert f'aria-describedby="{fault_id}"' in answer.text or f' {fault_id}"' in answer.text
    for name, value in fields.items():
        if name != "type" and value:
            assert html.escape(value.replace("\0", "\ufffd")).replace("&quot;", "&#34;") in answer.text
    assert count(engine) == 0


def test_all_faults_are_shown_in_one_go(browser: httpx.Client) -> None:
    text = post(browser, "/send", type="webhook", **{"p.url": "nope", "p.headers": "[1", "p.body": "{"}).text
    assert {re.sub(r"-fault-\d", "", found) for found in re.findall(r'class="fault" id="([^"]+)"', text)} == {
        "p-url",
        "p-headers",
        "p-body",
    }
    assert "3 faults" in text


@pytest.mark.parametrize("path", ["/send", "/board/jobs/{id}/cancel", "/board/jobs/{id}/retry"])
@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_a_form_of_somebody_elses_page_does_nothing(
    browser: httpx.Client, engine: Engine, path: str, token: str | None
) -> None:
    (job_id,) = store(engine, status="PENDING")
    fields = {"type": "sleep", "p.delayMs": "1"} | ({} if token is None else {"csrf_token": token})
    answer = browser.post(path.format(id=job_id), data=fields)
    assert answer.status_code == 403
    assert count(engine) == 1
    assert "PENDING" in browser.get(f"/board/jobs/{job_id}").text


def test_buttons_follow_the_state(browser: httpx.Client, engine: Engine) -> None:
    (job_id,) = store(engine, status="PENDING")
    path = f"/board/jobs/{job_id}"
    assert "/cancel" in browser.get(path).text
    assert "/retry" not in browser.get(path).text
    refused = post(browser, f"{path}/retry")
    assert refused.status_code == 409
    assert "The job is PENDING: retry needs" in refused.text
    assert post(browser, f"{path}/cancel").headers["location"] == path
    assert "CANCELLED" in browser.get(path).text
    assert "/retry" in browser.get(path).text
    assert post(browser, f"{path}/cancel").status_code == 409
    assert post(browser, f"{path}/retry").status_code == 303
    assert browser.get(f"{path}/retry").headers["location"] == path


def test_a_failed_job_shows_its_errors_escaped(browser: httpx.Client, engine: Engine) -> None:
    evil = "<script>alert(1)</script>"
    entry = {
        "attempt": 2, "kind": "failed", "class": "Boom", "message": evil, "traceback": f"Traceback\n{evil}",
        "worker": str(uuid4()), "started_at": "2030-01-01T00:00:00+00:00", "ended_at": "2030-01-01T00:00:02.5+00:00",
    }  # fmt: skip
    log = [{"at": 1_900_000_000.5, "attempt": 1, "text": evil}]
    (job_id,) = store(
        engine, status="FAILED", error=evil, errors=[{"kind": "lost"}, entry], log=log, attempts=2, actor=evil
    )
    for path in (f"/board/jobs/{job_id}", "/"):
        text = browser.get(path).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)" in text
    page = browser.get(f"/board/jobs/{job_id}").text
    assert page.index("Attempt 2") < page.index(">lost<")
    assert "after 2.50 s" in page
    assert "<details" in page
    assert "17:46:40" in page  # the log line's time


def test_a_completed_job_shows_its_result_and_why_there_is_none(browser: httpx.Client, engine: Engine) -> None:
    (kept,) = store(engine, result={"a": [1, "<b>"]})
    (lost,) = store(engine, result_error="nested deeper than 64 levels")
    assert "&lt;b&gt;" in browser.get(f"/board/jobs/{kept}").text
    assert "nested deeper than 64 levels" in browser.get(f"/board/jobs/{lost}").text


@pytest.mark.parametrize("job_id", ["nope", str(UUID(int=1)), "..%2f..", "{id}"])
def test_a_job_that_is_not_there_and_one_of_another_tenant_look_the_same(
    browser: httpx.Client, engine: Engine, job_id: str
) -> None:
    with engine.connect() as connection:
        tenancy.ensure_tenant(connection, "other")
    (foreign,) = store(engine, tenant_id="other", status="PENDING")
    path = f"/board/jobs/{job_id.format(id=foreign)}"
    answer = browser.get(path)
    assert answer.status_code == 404
    if "%" not in path:
        assert "Not found" in answer.text
        assert post(browser, f"{path}/cancel").status_code == 404
    assert str(foreign) not in browser.get("/").text


def test_pages_by_cursor_hold_each_job_once(browser: httpx.Client, engine: Engine) -> None:
    made = store(engine, 2 * PAGE_JOBS + 3)
    seen: list[str] = []
    path = "/"
    for _ in range(3):
        text = browser.get(path).text
        seen += re.findall(r'<tr role="row" data-id="([^"]+)"', text)
        older = re.search(r'rel="next" href="([^"]+)"', text)
        path = html.unescape(older[1]) if older else ""
    assert path == ""
    assert seen == [str(job_id) for job_id in reversed(made)]


def test_filters_by_status_and_type_and_counts(browser: httpx.Client, engine: Engine) -> None:
    made = store(engine, 6)
    with engine.connect() as connection:
        connection.execute(update(jobs).where(jobs.c.id.in_(made[:2])).values(status="FAILED"))
        connection.execute(update(jobs).where(jobs.c.id == made[0]).values(actor="webhook"))
    text = browser.get("/").text
    assert re.search(r'data-status="FAILED">Failed <span class="count">2<', text)
    assert re.search(r'data-status="COMPLETED">Completed <span class="count">4<', text)
    assert len(re.findall(r"<tr role=\"row\" data-id=\"[^\"]", browser.get("/?status=FAILED").text)) == 2
    both = browser.get("/?status=FAILED&type=webhook").text
    assert re.findall(r'<tr role="row" data-id="([^"]+)"', both) == [str(made[0])]
    assert "Nothing here" in browser.get("/?type=no-such").text
    assert browser.get("/?status=nope").status_code == 404
    assert browser.get("/?after=nope").status_code == 404


def test_an_unknown_type_has_no_form(browser: httpx.Client, engine: Engine) -> None:
    assert browser.get("/send?type=nope").status_code == 404
    assert post(browser, "/send", type="nope").status_code == 404
    assert count(engine) == 0
