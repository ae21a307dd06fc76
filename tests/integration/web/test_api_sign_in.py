"""Browsers: one-time links, password, the session cookie and its CSRF token; pages of other origins."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from models import tenancy
from tests.ledger_driver import Driver
from tests.web_server import ORIGIN, WebServer

SLEEP = {"type": "sleep", "payload": {"delayMs": 5}}


@pytest.fixture(scope="module", autouse=True)
def operator(driver: Driver) -> str:
    with driver.engine.connect() as connection:
        tenancy.set_operator(connection, "olga", "correct horse")
    return "olga"


@pytest.fixture
def browser(web: WebServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=web.url) as client:
        yield client


def link(driver: Driver) -> str:
    with driver.engine.connect() as connection:
        return f"/sign-in?token={tenancy.create_sign_in_link(connection, 'olga')}"


def csrf(browser: httpx.Client, driver: Driver) -> str:
    with driver.engine.connect() as connection:
        digest = tenancy.digest(browser.cookies["cb_session"])
        token: str = connection.execute(tenancy.find_session(), {"token_hash": digest}).one().csrf_token
    return token


def test_a_link_signs_in_once(browser: httpx.Client, driver: Driver, web: WebServer) -> None:
    address = link(driver)
    assert browser.head(address).status_code == 425
    assert browser.get(address, headers={"Sec-Purpose": "prefetch"}).status_code == 425
    response = browser.get(address)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert browser.get("/jobs").status_code == 200
    assert browser.get(address).status_code == 303  # in already
    with httpx.Client(base_url=web.url) as somebody_else:
        refused = somebody_else.get(address)
        assert refused.status_code == 403
        assert "used before" in refused.text
        assert "set-cookie" not in refused.headers


def test_nonsense_is_no_link(browser: httpx.Client) -> None:
    assert browser.get("/sign-in?token=nonsense").status_code == 403
    assert browser.get("/sign-in?token=").status_code == 403
    assert browser.get("/jobs", headers={"Cookie": "cb_session=nonsense"}).status_code == 401


def test_a_password_signs_in_and_out(browser: httpx.Client, driver: Driver) -> None:
    wrong = browser.post("/sign-in", data={"username": "olga", "password": "wrong"})
    assert wrong.status_code == 403
    assert browser.post("/sign-in", data={"username": "nobody", "password": "wrong"}).status_code == 403
    assert browser.post("/sign-in", data={"username": "", "password": ""}).status_code == 422
    right = browser.post("/sign-in", data={"username": "olga", "password": "correct horse"})
    assert (right.status_code, right.headers["location"]) == (303, "/")
    assert browser.get("/jobs").status_code == 200
    session = browser.cookies["cb_session"]
    assert browser.post("/sign-out").status_code == 403  # without the token
    out = browser.post("/sign-out", data={"csrf_token": csrf(browser, driver)})
    assert out.status_code == 303
    assert "cb_session" not in browser.cookies
    assert browser.get("/jobs", headers={"Cookie": f"cb_session={session}"}).status_code == 401


def test_other_sites_cannot_sign_a_visitor_in(browser: httpx.Client) -> None:
    form = {"username": "olga", "password": "correct horse"}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert browser.post("/sign-in", data=form, headers=headers).status_code == 403


def test_a_session_needs_its_csrf_token_to_change_anything(browser: httpx.Client, driver: Driver) -> None:
    browser.get(link(driver))
    before = driver.versions("default")
    for headers in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": ""}):
        refused = browser.post("/jobs", json=SLEEP, headers=headers)
        assert refused.status_code == 403
        assert refused.json()["type"] == "urn:callboard:problem:csrf"
        assert browser.post("/events/tickets", json={}, headers=headers).status_code == 403
    assert driver.versions("default") == before
    assert browser.post("/jobs", json=SLEEP, headers={"X-CSRF-Token": csrf(browser, driver)}).status_code == 202


def test_a_wrong_key_is_401_whatever_the_cookie_says(browser: httpx.Client, driver: Driver) -> None:
    browser.get(link(driver))
    assert browser.get("/jobs", headers={"Authorization": "Bearer cb_x_y"}).status_code == 401


def test_allowed_origins_may_call_without_cookies(web: WebServer, tenant: tuple[str, str]) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = httpx.options(f"{web.url}/jobs", headers={"Origin": ORIGIN, **ask})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in allowed.headers
    refused = httpx.options(f"{web.url}/jobs", headers={"Origin": "https://evil.example", **ask})
    assert "access-control-allow-origin" not in refused.headers
    key = {"Authorization": f"Bearer {tenant[1]}"}
    for path, status in (("/jobs", 200), ("/jobs/x", 404)):
        answer = httpx.get(f"{web.url}{path}", headers={"Origin": ORIGIN, **key})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "ETag" in answer.headers["access-control-expose-headers"]
    assert (
        "access-control-allow-origin"
        not in httpx.get(f"{web.url}/jobs", headers={"Origin": "https://evil.example", **key}).headers
    )
    too_large = httpx.post(f"{web.url}/jobs", content=b"x" * 2_000_000, headers={"Origin": ORIGIN, **key})
    assert (too_large.status_code, too_large.headers["access-control-allow-origin"]) == (413, ORIGIN)
