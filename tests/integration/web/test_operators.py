"""Operators: what guards their sign-in, how sessions end, and their pages for tenants and keys."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, update

import actors  # noqa: F401 - installs the broker and the job types
from actors.runtime.job_type import job_types
from models import tenancy, throttle
from models.tables import sign_in_attempts, web_sessions
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.web_server import Listener, WebServer, web_server
from web.openapi import document

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def olga(driver: Driver) -> str:
    """An operator; each password costs a fifth of a second, so most tests share this one and sign in by link."""
    with driver.engine.connect() as connection:
        tenancy.set_operator(connection, "olga", PASSWORD)
    return "olga"


@pytest.fixture
def name(olga: str, driver: Driver) -> str:
    """The same, with no tries counted."""
    with driver.engine.connect() as connection:
        connection.execute(sign_in_attempts.delete())
    return olga


@pytest.fixture(scope="module")
def second(web_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """Another web process of the same installation."""
    log: Path = tmp_path_factory.mktemp("second") / "web.log"
    with web_server(web_environment, log) as server:
        yield server


@pytest.fixture
def browser(web: WebServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=web.url, timeout=20) as client:
        yield client


def sign_in(client: httpx.Client, name: str, password: str = PASSWORD, **headers: str) -> httpx.Response:
    return client.post("/sign-in", data={"username": name, "password": password}, headers=headers)


def click(client: httpx.Client, name: str, driver: Driver) -> httpx.Response:
    """Sign in by a one-time link."""
    with driver.engine.connect() as connection:
        token = tenancy.create_sign_in_link(connection, name)
    return client.get(f"/sign-in?token={token}")


def csrf(client: httpx.Client) -> str:
    """The token in the forms of the signed-in person's pages."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/tenants").text)
    assert found is not None
    return found[1]


def try_passwords(servers: list[WebServer], name: str, driver: Driver) -> list[int]:
    """The last two tries that a name has, and six more, all at once and each from another address."""
    with driver.engine.connect() as connection:
        values = {"key": throttle.key_of_name(name), "tries": throttle.TRIES_PER_NAME - 2}
        connection.execute(sign_in_attempts.insert().values(**values))

    def once(number: int) -> int:
        form = {"username": name, "password": "wrong"}
        headers = {"X-Forwarded-For": f"198.51.100.{number}"}
        url = f"{servers[number % len(servers)].url}/sign-in"
        return httpx.post(url, data=form, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        return sorted(pool.map(once, range(8)))


# -- tries -------------------------------------------------------------------------------------------------------------


def test_tries_for_a_name_are_counted_over_all_processes_and_addresses(
    web: WebServer, second: WebServer, name: str, driver: Driver, browser: httpx.Client
) -> None:
    assert try_passwords([web, second], name, driver) == [403] * 2 + [429] * 6
    refused = sign_in(browser, name)
    assert refused.status_code == 429  # though the password is right
    assert 1 <= int(refused.headers["retry-after"]) <= throttle.WINDOW.total_seconds()
    assert "./callboard operators link" in refused.text
    with driver.engine.connect() as connection:
        link = tenancy.create_sign_in_link(connection, name)
        assert browser.get(f"/sign-in?token={link}").status_code == 303  # nobody can lock an operator out
        over = throttle.WINDOW + timedelta(seconds=1)
        connection.execute(update(sign_in_attempts).values(began_at=func.now() - over))
    assert sign_in(browser, name).status_code == 303


def test_a_name_that_does_not_exist_waits_like_one_that_does(web: WebServer, name: str, driver: Driver) -> None:
    assert try_passwords([web], f"{name}-unknown", driver) == [403] * 2 + [429] * 6


def test_tries_from_an_address_are_counted_over_all_names(
    name: str, driver: Driver, web: WebServer, browser: httpx.Client
) -> None:
    """Counted up in the table: each try costs a password check."""
    address = "203.0.113.9"
    with driver.engine.connect() as connection:
        values = {"key": throttle.key_of_address(address), "tries": throttle.TRIES_PER_ADDRESS - 1}
        connection.execute(sign_in_attempts.insert().values(**values))
    here = {"X-Forwarded-For": address}
    assert sign_in(browser, f"{name}-x", "wrong", **here).status_code == 403
    assert sign_in(browser, name, **here).status_code == 429
    assert sign_in(browser, name, **{"X-Forwarded-For": "203.0.113.10"}).status_code == 303


def test_signing_in_begins_the_count_anew(name: str, driver: Driver, browser: httpx.Client) -> None:
    assert sign_in(browser, name, "wrong").status_code == 403
    assert sign_in(browser, name).status_code == 303
    with driver.engine.connect() as connection:
        rows = connection.execute(select(sign_in_attempts.c.key, sign_in_attempts.c.tries)).all()
    counted = {row.key: row.tries for row in rows}
    assert throttle.key_of_name(name) not in counted
    assert counted == {throttle.key_of_address("127.0.0.1"): 1}


def test_names_and_addresses_are_kept_as_hashes_and_not_for_long(name: str, driver: Driver) -> None:
    with driver.engine.connect() as connection:
        connection.execute(throttle.count_tries(), {"try_key": [throttle.key_of_name(name)]})
        assert re.fullmatch(r"[0-9a-f]{64}", connection.execute(select(sign_in_attempts.c.key)).scalar_one())
        connection.execute(update(sign_in_attempts).values(began_at=func.now() - throttle.WINDOW))
        assert tenancy.delete_expired(connection) >= 1
        assert connection.execute(select(sign_in_attempts)).all() == []


def test_addresses_of_one_host_count_as_one() -> None:
    assert throttle.key_of_address("2001:db8::1") == throttle.key_of_address("2001:db8::ffff")
    assert throttle.key_of_address("2001:db8:0:1::1") != throttle.key_of_address("2001:db8::1")
    assert throttle.key_of_address("10.0.0.1") != throttle.key_of_address("10.0.0.2")
    # A proxy or a socket for both families; all of these lie in one /64.
    assert throttle.key_of_address("::ffff:10.0.0.1") == throttle.key_of_address("10.0.0.1")
    assert throttle.key_of_address("::ffff:10.0.0.1") != throttle.key_of_address("::ffff:10.0.0.2")
    assert throttle.key_of_address("testclient")


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_signing_in_gives_a_new_session_and_ends_the_former(browser: httpx.Client, name: str, driver: Driver) -> None:
    click(browser, name, driver)
    former = browser.cookies["cb_session"]
    sign_in(browser, name)
    assert browser.cookies["cb_session"] != former
    assert browser.get("/jobs").status_code == 200
    assert httpx.get(f"{browser.base_url}/jobs", headers={"Cookie": f"cb_session={former}"}).status_code == 401


def test_a_session_planted_by_somebody_else_is_not_taken(browser: httpx.Client, name: str, driver: Driver) -> None:
    browser.cookies["cb_session"] = "planted"
    answer = click(browser, name, driver)
    assert answer.cookies["cb_session"] != "planted"
    assert httpx.get(f"{browser.base_url}/jobs", headers={"Cookie": "cb_session=planted"}).status_code == 401


@pytest.mark.parametrize(("proto", "secure"), [("http", False), ("https", True)])
def test_the_cookies_flags(browser: httpx.Client, name: str, proto: str, secure: bool) -> None:
    cookie = sign_in(browser, name, **{"X-Forwarded-Proto": proto}).headers["set-cookie"].lower()
    parts = {part.strip() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/", "max-age=43200"} <= parts
    assert ("secure" in parts) is secure
    assert not any(part.startswith("domain") for part in parts)


def test_a_session_ends_by_itself(browser: httpx.Client, name: str, driver: Driver) -> None:
    click(browser, name, driver)
    digest = tenancy.digest(browser.cookies["cb_session"])
    with driver.engine.connect() as connection:
        mine = web_sessions.c.token_hash == digest
        left = connection.execute(select(web_sessions.c.expires_at - func.now()).where(mine)).scalar_one()
        assert timedelta(hours=11) < left <= tenancy.SESSION_LASTS
        connection.execute(update(web_sessions).values(expires_at=func.now()).where(mine))
    wait_for(lambda: browser.get("/jobs").status_code == 401, 15)


def test_signing_out_everywhere(web: WebServer, second: WebServer, name: str, driver: Driver) -> None:
    other = driver_operator(driver)
    with (
        httpx.Client(base_url=web.url) as here,
        httpx.Client(base_url=second.url) as there,
        httpx.Client(base_url=web.url) as somebody_else,
    ):
        for client, who in ((here, name), (there, name), (somebody_else, other)):
            click(client, who, driver)
            assert client.get("/jobs").status_code == 200
        stream = Listener(f"{second.url}/events?ticket={ticket(there)}")
        out = here.post("/sign-out", data={"csrf_token": csrf(here), "everywhere": "yes"})
        assert out.headers["location"] == "/sign-in"
        assert here.get("/jobs").status_code == 401
        wait_for(lambda: there.get("/jobs").status_code == 401, 15, what="the other process notices")
        assert stream.ended.wait(20)
        assert somebody_else.get("/jobs").status_code == 200


def ticket(client: httpx.Client) -> str:
    answer = client.post("/events/tickets", json={}, headers={"X-CSRF-Token": csrf(client)})
    return str(answer.json()["url"]).partition("ticket=")[2]


def driver_operator(driver: Driver) -> str:
    made = f"op-{secrets.token_hex(4)}"
    with driver.engine.connect() as connection:
        tenancy.set_operator(connection, made, PASSWORD)
    return made


def test_another_password_ends_sessions_and_links_the_same_one_does_not(browser: httpx.Client, driver: Driver) -> None:
    name = driver_operator(driver)
    click(browser, name, driver)
    with driver.engine.connect() as connection:
        link = tenancy.create_sign_in_link(connection, name)
        tenancy.set_operator(connection, name, PASSWORD)  # as ./callboard up does at every start
        digest = {"token_hash": tenancy.digest(browser.cookies["cb_session"])}
        assert connection.execute(tenancy.find_session(), digest).first() is not None
        tenancy.set_operator(connection, name, "another horse battery")
        assert connection.execute(tenancy.find_session(), digest).first() is None
    wait_for(lambda: browser.get("/jobs").status_code == 401, 15)
    assert browser.get(f"/sign-in?token={link}").status_code == 403
    assert sign_in(browser, name).status_code == 403
    assert sign_in(browser, name, "another horse battery").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://["}, {"Sec-Fetch-Site": "cross-site"}],
    ids=str,
)
def test_a_token_does_not_help_another_sites_page(
    browser: httpx.Client, name: str, driver: Driver, headers: dict[str, str]
) -> None:
    click(browser, name, driver)
    token = csrf(browser)
    for path in ("/jobs", "/events/tickets", "/tenants", "/keys", "/sign-out"):
        refused = browser.post(path, data={"csrf_token": token}, headers=headers)
        assert (path, refused.status_code) == (path, 403)
    assert browser.get("/jobs").status_code == 200


# -- pages -------------------------------------------------------------------------------------------------------------

PAGES = [
    ("GET", "/tenants"),
    ("POST", "/tenants"),
    ("POST", "/tenants/switch"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("GET", "/keys/x/revoke"),
    ("POST", "/keys/x/revoke"),
]


@pytest.mark.parametrize(("method", "path"), PAGES)
def test_the_pages_are_for_operators(
    api: httpx.Client, nobody: httpx.Client, browser: httpx.Client, name: str, driver: Driver, method: str, path: str
) -> None:
    before = len(api.get("/jobs").json()["jobs"])
    assert api.request(method, path).status_code == 403
    assert nobody.request(method, path).headers["location"] == "/sign-in"
    assert before == len(api.get("/jobs").json()["jobs"])
    if method == "POST":
        click(browser, name, driver)
        assert browser.post(path, data={"label": "x", "tenant": "x"}).status_code == 403  # no token


def test_a_key_is_made_shown_once_used_and_revoked(
    browser: httpx.Client, name: str, driver: Driver, web: WebServer
) -> None:
    click(browser, name, driver)
    token = csrf(browser)
    made = browser.post("/keys", data={"csrf_token": token, "label": 'for <b>"x"</b>'})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    assert "<b>" not in made.text
    [key] = re.findall(r"cb_[0-9a-f]{12}_[\w-]{43}", made.text)
    assert key not in browser.get("/keys").text
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{web.url}/jobs", headers=headers).status_code == 200
    stream = Listener(f"{web.url}/events", key=key)
    address = f"/keys/{key.split('_')[1]}/revoke"
    assert "cannot be undone" in browser.get(address).text
    assert httpx.get(f"{web.url}/jobs", headers=headers).status_code == 200  # asked only
    assert browser.post(address, data={"csrf_token": token}).headers["location"] == "/keys"
    assert httpx.get(f"{web.url}/jobs", headers=headers).status_code == 401
    assert stream.ended.wait(10)
    assert browser.get(address).headers["location"] == "/keys"
    assert "revoked" in browser.get("/keys").text
    assert browser.post("/keys", data={"csrf_token": token, "label": "x" * 101}).status_code == 422


def test_a_tenant_is_made_and_shown(browser: httpx.Client, name: str, driver: Driver, web: WebServer) -> None:
    click(browser, name, driver)
    token = csrf(browser)
    tenant = f"new / tenant {secrets.token_hex(3)}"
    assert browser.post("/tenants", data={"csrf_token": token, "tenant": tenant}).headers["location"] == "/tenants"
    assert tenant in browser.get("/tenants").text
    assert "exists already" in browser.post("/tenants", data={"csrf_token": token, "tenant": tenant}).text
    for bad in ("", "x" * 101, "a\nb", "nul\0"):
        assert browser.post("/tenants", data={"csrf_token": token, "tenant": bad}).status_code == 422
    [theirs], [default] = driver.enqueue(tenant), driver.enqueue("default")
    former = browser.cookies["cb_session"]
    stream = Listener(f"{web.url}/events?ticket={ticket(browser)}")
    moved = browser.post("/tenants/switch", data={"csrf_token": token, "tenant": tenant})
    assert (moved.status_code, moved.headers["location"]) == (303, "/")
    assert 0 < int(re.findall(r"max-age=(\d+)", moved.headers["set-cookie"].lower())[0]) <= 43200
    shown = {job["id"] for job in browser.get("/jobs").json()["jobs"]}
    assert theirs in shown
    assert default not in shown
    assert stream.ended.wait(10)
    # A page that still shows the former tenant can do nothing.
    assert browser.post("/keys", data={"csrf_token": token, "label": "x"}).status_code == 403
    assert httpx.get(f"{web.url}/jobs", headers={"Cookie": f"cb_session={former}"}).status_code == 401
    assert browser.post("/tenants/switch", data={"csrf_token": csrf(browser), "tenant": "nowhere"}).status_code == 404
    assert browser.post("/tenants/switch", data={"csrf_token": csrf(browser), "tenant": "nul\0"}).status_code == 404
    assert browser.get("/jobs").status_code == 200


#: Addresses that take a body of JSON; those of sample domains only while these are there.
TAKE_JSON = [
    path
    for path, item in document(list(job_types().values()), "http://test")["paths"].items()
    if "application/json" in item.get("post", {}).get("requestBody", {}).get("content", {})
]


@pytest.mark.parametrize("path", TAKE_JSON)
def test_a_form_is_no_json(browser: httpx.Client, name: str, driver: Driver, path: str) -> None:
    """The look for its CSRF token must not use the body up."""
    click(browser, name, driver)
    refused = browser.post(path, data={"csrf_token": csrf(browser)})
    assert (refused.status_code, refused.headers["content-type"]) == (415, "application/problem+json")


@pytest.mark.parametrize("charset", ["utf-7", "punycode", "undefined"])
def test_a_form_in_another_character_set(browser: httpx.Client, charset: str) -> None:
    """Of Python's, some refuse with errors of their own, and UTF-7 makes lone surrogates."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n+2AA-\\\r\n' for name in ("username", "password")
    ]
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    assert browser.post("/sign-in", content="".join([*parts, "--b--\r\n"]), headers=headers).status_code == 400
