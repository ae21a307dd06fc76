"""/dashboard/queues: dramatiq-dashboard in its cage, its numbers compared with SQL."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis as redis_py
from sqlalchemy import text

from models import tenancy
from models.settings import Settings
from tests.browser.site import Child
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.web_server import WebServer

pytestmark = pytest.mark.once

QUEUES = "/dashboard/queues"
XSS = "<script>alert(1)</script>"
COUNTED = """
SELECT queue,
       count(*) FILTER (WHERE status = 'PENDING' AND run_at <= now()) AS waiting,
       count(*) FILTER (WHERE status = 'RUNNING') AS active,
       count(*) FILTER (WHERE status = 'PENDING' AND run_at > now()) AS delayed,
       count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
       count(*) FILTER (WHERE status = 'FAILED') AS failed
FROM callboard.jobs WHERE tenant_id = :tenant GROUP BY queue
"""


@contextmanager
def signed_in(web: WebServer, driver: Driver, tenant: str) -> Iterator[httpx.Client]:
    """An operator's browser."""
    with driver.engine.connect() as connection:
        link = tenancy.create_sign_in_link(connection, "olga", tenant)
    with httpx.Client(base_url=web.url, timeout=20) as client:
        assert client.get(f"/sign-in?token={link}").status_code == 303
        yield client


@pytest.fixture(scope="module", autouse=True)
def operator(driver: Driver) -> None:
    with driver.engine.connect() as connection:
        tenancy.set_operator(connection, "olga", "correct horse")


@pytest.fixture
def olga(web: WebServer, driver: Driver, tenant: tuple[str, str]) -> Iterator[httpx.Client]:
    """An operator, signed in for this test's tenant."""
    with signed_in(web, driver, tenant[0]) as client:
        yield client


def in_sql(driver: Driver, tenant: str) -> dict[str, dict[str, int]]:
    with driver.engine.connect() as connection:
        rows = connection.execute(text(COUNTED), {"tenant": tenant}).mappings()
        return {row["queue"]: {k: v for k, v in row.items() if k != "queue"} for row in rows}


def in_band(page: str) -> dict[str, dict[str, int]]:
    """The band's numbers by queue."""
    found = {}
    for queue, row in re.findall(r'<tr role="row" data-queue="([^"]*)">(.*?)</tr>', page, re.DOTALL):
        cells = re.findall(r'data-count="(\w+)"[^>]*>([\d,]+)<', row)
        found[queue] = {name: int(value.replace(",", "")) for name, value in cells}
    return found


def in_its_table(page: str) -> dict[str, list[int]]:
    """dramatiq-dashboard's own: jobs, delayed and failed by queue."""
    its = page.partition('class="queues"')[2]
    rows = re.findall(r"<a href=\"[^\"]*\">\s*([\w.-]+)\s*</a>(.*?)</tr>", its, re.DOTALL)
    return {queue: [int(n.replace(",", "")) for n in re.findall(r"\s([\d,]+)\s*</td>", row)] for queue, row in rows}


def in_its_tabs(page: str) -> list[int]:
    return [int(n.replace(",", "")) for n in re.findall(r'<em class="em em--\w+">([\d,]+)</em>', page)]


def listed(page: str) -> set[str]:
    return set(re.findall(r"/(?:standard|delayed|failed)/([0-9a-f-]{36})\"", page))


def assert_equals_sql(client: httpx.Client, driver: Driver, tenant: str) -> dict[str, dict[str, int]]:
    """Every page of the tenant's queues tells what the table holds; returns that."""
    expected = in_sql(driver, tenant)
    overview = client.get(QUEUES).text
    shown = in_band(overview)
    assert {name: counts for name, counts in shown.items() if any(counts.values())} == expected
    for queue, counts in expected.items():
        three = [counts["waiting"] + counts["active"], counts["delayed"], counts["failed"]]
        assert in_its_table(overview)[queue] == three
        for which, number in zip(("standard", "delayed", "failed"), three, strict=True):
            page = client.get(f"{QUEUES}/queues/{queue}/{which}").text
            assert in_its_tabs(page) == three
            assert len(listed(page)) == number
            assert in_band(page) == {queue: counts}
    return expected


def test_the_numbers_are_those_of_sql_before_and_after_flushall(
    web: WebServer, web_environment: dict[str, str], web_settings: Settings, driver: Driver, tmp_path: Path
) -> None:
    """A real broker, a real worker: 3 delayed, 2 failed, 5 completed."""
    tenant, key = driver.tenant()
    sleep = {"type": "sleep", "payload": {"delayMs": 0}}
    # Refused before anything is sent, for ever: one attempt.
    refused = {"type": "webhook", "payload": {"url": "http://169.254.169.254/"}, "options": {"max_attempts": 1}}
    later = {**sleep, "options": {"delay": 3_600_000}}
    with httpx.Client(base_url=web.url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as api:
        for body in [sleep] * 5 + [refused] * 2 + [later] * 3:
            assert api.post("/jobs", json=body).status_code == 202
    worker = Child(
        "worker",
        [sys.executable, "-m", "dramatiq", "actors", "-p", "1", "-t", "2"],
        {**web_environment, "CALLBOARD_WEBHOOK_ALLOW_LOOPBACK": ""},
        tmp_path / "worker.log",
    )
    worker.start()
    try:
        with signed_in(web, driver, tenant) as client:
            wait_for(lambda: worker.check() or _total(driver, tenant, "completed", "failed") == 7, 60)
            before = assert_equals_sql(client, driver, tenant)
            assert {name: sum(counts[name] for counts in before.values()) for name in ("delayed", "failed")} == {
                "delayed": 3,
                "failed": 2,
            }
            assert _total(driver, tenant, "completed") == 5
            with redis_py.Redis.from_url(web_settings.redis_url_with_db) as client_of_redis:
                client_of_redis.flushdb()  # all that FLUSHALL would take from us; others may live beside us
            assert assert_equals_sql(client, driver, tenant) == before
            overview = client.get(QUEUES).text
            with driver.engine.connect() as connection:
                alive = connection.execute(
                    text("SELECT hostname || ':' || pid FROM callboard.workers WHERE dead_at IS NULL AND pid > 1")
                ).scalars()
                assert all(name in overview for name in alive)
    finally:
        worker.stop(signal.SIGKILL)


def _total(driver: Driver, tenant: str, *names: str) -> int:
    return sum(counts[name] for counts in in_sql(driver, tenant).values() for name in names)


def test_every_state_of_every_queue_is_where_it_belongs(
    olga: httpx.Client, driver: Driver, tenant: tuple[str, str]
) -> None:
    mine, _ = tenant
    waiting = driver.enqueue(mine, 2, queue="mail")
    [active] = driver.enqueue(mine, queue="mail")
    driver.claim(active)
    [delayed] = driver.enqueue(mine, queue="mail", delay_ms=3_600_000)
    done, failed = driver.enqueue(mine, 2, queue="reports")
    driver.claim(done, failed)
    driver.complete(done)
    driver.fail(failed, f"broken: {XSS}")
    other, _ = driver.tenant()
    driver.enqueue(other, queue="secret")
    [foreign] = driver.enqueue(other, queue="mail")
    expected = assert_equals_sql(olga, driver, mine)
    assert expected["mail"] == {"waiting": 2, "active": 1, "delayed": 1, "completed": 0, "failed": 0}
    assert listed(olga.get(f"{QUEUES}/queues/mail").text) == {*waiting, active}
    assert listed(olga.get(f"{QUEUES}/queues/mail/delayed").text) == {delayed}
    page = olga.get(f"{QUEUES}/queues/reports/failed/{failed}").text
    assert "FAILED" in page
    assert "broken: &lt;script&gt;" in page
    assert XSS not in page
    # It is not in that list: back to the list, as dramatiq-dashboard has it.
    gone = olga.get(f"{QUEUES}/queues/reports/delayed/{failed}")
    assert (gone.status_code, gone.headers["location"]) == (303, f"{QUEUES}/queues/reports/delayed")
    # Another tenant's do not exist.
    assert "secret" not in olga.get(QUEUES).text
    assert olga.get(f"{QUEUES}/queues/secret").status_code == 404
    assert olga.get(f"{QUEUES}/queues/mail/standard/{foreign}").status_code == 303


def test_long_lists_are_read_page_by_page(olga: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    sent = driver.enqueue(tenant[0], 230, queue="many")
    seen: list[set[str]] = []
    address: str | None = f"{QUEUES}/queues/many"
    while address:
        page = olga.get(address).text
        seen.append(listed(page))
        match = re.search(r'href="([^"]*\?cursor=\d+)"', page)
        address = match[1] if match else None
    assert [len(page) for page in seen] == [100, 100, 30]
    assert set.union(*seen) == set(sent)
    for cursor in ("-1", "x", "0", "9" * 40, str(1 << 128), "1%0a", XSS):
        assert olga.get(f"{QUEUES}/queues/many", params={"cursor": cursor}).status_code == 404, cursor


def test_nobody_else_gets_in(nobody: httpx.Client, api: httpx.Client) -> None:
    for path in (QUEUES, f"{QUEUES}/queues/default", f"{QUEUES}/anything"):
        away = nobody.get(path)
        assert (away.status_code, away.headers["location"]) == (303, "/sign-in")
        refused = api.get(path)
        assert refused.status_code == 403
        assert "operators" in refused.text
        assert "Queues</a>" not in refused.text
    assert QUEUES not in api.get("/").text


def test_operators_find_the_way(olga: httpx.Client) -> None:
    assert f'<a href="{QUEUES}">Queues</a>' in olga.get("/").text
    assert f'<a href="{QUEUES}" aria-current="page">Queues</a>' in olga.get(QUEUES).text
    assert olga.get(f"{QUEUES}/").status_code == 200
    head = olga.head(QUEUES)
    assert (head.status_code, head.content) == (200, b"")


def test_nothing_can_be_changed(olga: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    [failed] = driver.enqueue(tenant[0], queue="reports")
    driver.claim(failed)
    driver.fail(failed)
    before = driver.versions(tenant[0])
    actions = ("delete-message", "requeue-message", "queues/reports/failed", f"queues/reports/failed/{failed}", "")
    body = {"queue": "reports.XQ", "id": failed, "__dd_csrf": "x"}
    cookie = f"cb_session={olga.cookies['cb_session']}; __dd_csrf=x"
    for method, action in itertools.product(("POST", "PUT", "DELETE", "PATCH"), actions):
        refused = olga.request(method, f"{QUEUES}/{action}", data=body, headers={"Cookie": cookie})
        assert refused.status_code == 405, (method, action)
    assert driver.versions(tenant[0]) == before
    page = olga.get(f"{QUEUES}/queues/reports/failed").text
    assert failed in page
    its = page.partition('class="queues"')[2]
    assert "<form" not in its
    assert "<button" not in its


def test_a_body_is_not_waited_for(olga: httpx.Client, web: WebServer) -> None:
    """dramatiq-dashboard would read as much as the client claims to send."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as raw:
        raw.sendall(
            f"POST {QUEUES}/delete-message HTTP/1.1\r\nHost: x\r\nContent-Length: 1048570\r\n"
            f"Cookie: cb_session={olga.cookies['cb_session']}\r\n\r\n".encode()
        )
        assert raw.recv(1000).startswith(b"HTTP/1.1 405")


def test_nothing_of_the_request_comes_back(olga: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    hostile = json.dumps({"x": XSS})
    driver.enqueue(tenant[0], queue="mail", actor=f"a{XSS}", kwargs=hostile, options=hostile)
    [job] = listed(olga.get(f"{QUEUES}/queues/mail").text)
    cookie = f'cb_session={olga.cookies["cb_session"]}; __dd_csrf="><script>alert(1)</script>'
    for path in (QUEUES, f"{QUEUES}/queues/mail", f"{QUEUES}/queues/mail/standard/{job}"):
        for query in ("", f"?x={XSS}", "?" + "x=" + "y" * 20_000):
            page = olga.get(path + query, headers={"Cookie": cookie})
            assert page.status_code == 200
            assert "<script" not in page.text
            assert "__dd_csrf" not in page.text
            assert "set-cookie" not in page.headers
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "script-src" not in policy
            assert "unsafe" not in policy
    assert "a&lt;script&gt;" in olga.get(f"{QUEUES}/queues/mail").text


#: Below the dashboard's address; none of it is one of its own.
NOT_THERE = (
    *("X", "/..", "/../../jobs", "/%2e%2e/%2e%2e/jobs", "/queues", "/queues/", "/queues/nowhere", "/queues/mail.DQ"),
    *("/queues/mail.XQ/failed", "/queues/%00", "/queues/mail%2f..%2f", "/queues/mail%0aX", "/delete-message"),
    *("/requeue-message", "/queues/mail/other", "//queues/mail", "/queues/%3Cscript%3E", "/queues/" + "q" * 300),
    *("/queues/mail/delayed/1/2", "/static/callboard.css", "/{{7*7}}"),
)


def test_what_is_no_address_of_the_dashboard_is_not_found(
    olga: httpx.Client, driver: Driver, tenant: tuple[str, str], web: WebServer
) -> None:
    driver.enqueue(tenant[0], queue="mail")
    assert raw_get(web, olga, "/queues/mail").startswith("HTTP/1.1 200")
    for path in NOT_THERE:
        answer = raw_get(web, olga, path)
        assert answer.startswith("HTTP/1.1 404"), path
        assert "<script" not in answer, path


def raw_get(web: WebServer, olga: httpx.Client, path: str) -> str:
    """The answer to a path that a client would have tidied."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as raw:
        cookie = f"Cookie: cb_session={olga.cookies['cb_session']}\r\nConnection: close\r\n\r\n"
        raw.sendall(f"GET {QUEUES}{path} HTTP/1.1\r\nHost: x\r\n{cookie}".encode())
        return b"".join(iter(lambda: raw.recv(65_536), b"")).decode()


def test_an_id_that_is_none_leads_back_to_its_list(olga: httpx.Client, driver: Driver, tenant: tuple[str, str]) -> None:
    driver.enqueue(tenant[0], queue="mail")
    for job in ("nonsense", "%00", "0" * 32, "{}"):
        away = olga.get(f"{QUEUES}/queues/mail/standard/{job}")
        assert (away.status_code, away.headers["location"]) == (303, f"{QUEUES}/queues/mail/standard"), job


def test_an_outage_is_a_page(web: WebServer, driver: Driver, olga: httpx.Client, tenant: tuple[str, str]) -> None:
    """Nothing but the jobs is out of reach: the session is still known."""
    driver.enqueue(tenant[0], queue="mail")
    with driver.engine.connect() as connection:
        blocker = connection.execution_options(isolation_level="READ COMMITTED")
        with blocker.begin():
            blocker.execute(text("LOCK TABLE callboard.jobs IN ACCESS EXCLUSIVE MODE"))
            page = olga.get(QUEUES)
    assert page.status_code == 503
    assert "does not answer" in page.text
    assert "Traceback" not in page.text
