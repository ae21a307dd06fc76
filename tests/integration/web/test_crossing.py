"""Two tenants: every route with every kind of id of the other one. Nothing crosses.

The requests are made from the OpenAPI document and the list of pages: whoever adds a route, a parameter or a field that
names something has to say here what it names (:data:`KINDS`) or that it names nothing (:data:`HARMLESS`), or this
module fails. All of it runs twice: as the application is, and with the tenant condition taken out of every statement
(:mod:`tests.unscoped`), where row-level security stands alone.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import text
from starlette.routing import Route

import actors  # noqa: F401 - installs the broker and the job types
from actors.runtime.job_type import job_types
from models import queries, rls, tenancy
from models.engine import psycopg_dialect
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.unscoped import unscoped
from tests.web_server import Listener, WebServer
from web.job_list import cursor_of
from web.openapi import document
from web.routes import routes

METHODS = ("get", "post", "put", "patch", "delete")
#: What a parameter or a field of a body names → which of the other tenant's things are tried there.
KINDS = {
    "job_id": "job",
    "job": "job",
    "key_id": "key",
    "after": "cursor",
    "Last-Event-ID": "event",
    "ticket": "ticket",
    "unique_key": "unique_key",
}
#: Parameters that name nothing that belongs to anybody.
HARMLESS = {"status", "type", "queue", "limit"}
#: Fields of bodies by the look of whose name they name something, and so must be in KINDS or here.
NAMING = re.compile(r"(^|_)(id|ids|key|keys|token|cursor|ticket|job|jobs|tenant|dataset)$|(Id|Ids|Key)$")
#: How a body that carries a field looks: (method, path, field) → body with the field's value in it.
BODIES: dict[tuple[str, str, str], Any] = {
    ("post", "/jobs", "unique_key"): lambda value: {
        "type": "sleep", "payload": {"delayMs": 1}, "options": {"unique_key": value, "delay": 600_000}
    },
    ("post", "/events/tickets", "job"): lambda value: {"job": value},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One request: an operation, and the one place in it that names something of the other tenant."""

    method: str
    path: str
    place: str = ""  # path | query | header | body; nothing: what a route shows without being asked for anything
    name: str = ""
    is_page: bool = False
    is_stream: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.place}:{self.name}"


def fields(schema: Any, components: dict[str, Any], seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names of all properties that a body of this schema may have, at any depth."""
    if isinstance(schema, list):
        for item in schema:
            yield from fields(item, components, seen)
    elif isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            yield from fields(components[reference.rpartition("/")[2]], components, seen | {reference})
        for key, value in schema.items():
            if key == "properties":
                yield from value
                yield from fields(list(value.values()), components, seen)
            elif key in ("items", "oneOf", "anyOf", "allOf", "additionalProperties"):
                yield from fields(value, components, seen)


def cases_of(api: dict[str, Any]) -> Iterator[Case]:
    """Every request that the document makes possible; a ticket is a parameter, too."""
    components = api["components"]["schemas"]
    for path, item in api["paths"].items():
        for method in METHODS:
            if (operation := item.get(method)) is None:
                continue
            stream = "text/event-stream" in str(operation["responses"])
            yield Case(method, path, is_stream=stream)
            for parameter in [*item.get("parameters", ()), *operation.get("parameters", ())]:
                yield Case(method, path, parameter["in"], parameter["name"], is_stream=stream)
            for security in operation.get("security", ()):
                for name in security:
                    scheme = api["components"]["securitySchemes"][name]
                    if scheme.get("in") == "query":
                        yield Case(method, path, "query", scheme["name"], is_stream=stream)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                for name in sorted(set(fields(content["schema"], components))):
                    if NAMING.search(name):
                        yield Case(method, path, "body", name)


def cases_of_pages(api: dict[str, Any]) -> Iterator[Case]:
    """Pages are not in the document; those that name something do it in their path."""
    for route in routes():
        if isinstance(route, Route) and route.path not in api["paths"]:
            for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
                for name in route.param_convertors:
                    yield Case(method.lower(), route.path, "path", name, is_page=True)


API = document(list(job_types().values()), "http://test")
CASES = [*cases_of(API), *cases_of_pages(API)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_name_is_of_a_known_kind(case: Case) -> None:
    if case.place and case.name not in HARMLESS:
        assert case.name in KINDS, f"{case}: say in KINDS what it names, or in HARMLESS that it names nothing"
    if case.place == "body":
        assert (case.method, case.path, case.name) in BODIES, f"{case}: say in BODIES how to send it"


def test_a_new_kind_of_id_is_noticed() -> None:
    """What the test above rests on."""
    extended = {**API, "paths": {**API["paths"], "/things/{thing_id}": {
        "parameters": [{"name": "thing_id", "in": "path"}],
        "put": {"responses": {}, "requestBody": {"content": {"application/json": {"schema": {
            "oneOf": [{"$ref": "#/components/schemas/New"}]}}}}},
    }}}  # fmt: skip
    new = {"properties": {"deep": {"type": "array", "items": {"properties": {"otherId": {}, "size": {}}}}}}
    extended["components"] = {**API["components"], "schemas": {**API["components"]["schemas"], "New": new}}
    found = {(case.place, case.name) for case in cases_of(extended) if case.path == "/things/{thing_id}"}
    assert found == {("", ""), ("path", "thing_id"), ("body", "otherId")}
    assert not {"thing_id", "otherId"} & (KINDS.keys() | HARMLESS)


# -- the two tenants -----------------------------------------------------------------------------------------------


@dataclass
class Theirs:
    """The other tenant's things, each of which bears its mark."""

    tenant: str
    key: str
    mark: str
    jobs: list[str]
    values: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Mine:
    """The tenant that asks."""

    tenant: str
    key: str
    job: str
    cookie: str
    csrf_token: str


@pytest.fixture(scope="module", params=["as it is", "without scoping"])
def server(
    request: pytest.FixtureRequest, web_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebServer]:
    """The web process; the second one with the first wall torn down."""
    folder = tmp_path_factory.mktemp("web")
    record = folder / "statements"
    record.touch()
    app = "web.app:create_app" if request.param == "as it is" else "tests.unscoped:create_app"
    started = WebServer({**web_environment, "CALLBOARD_TEST_UNSCOPED": str(record)}, folder / "web.log", app)
    try:
        started.start()
        yield started
        if request.param == "without scoping":
            check_that_nothing_was_scoped(record)
        assert "no_second_wall" not in (folder / "web.log").read_text()
    finally:
        started.stop()


def check_that_nothing_was_scoped(record: Path) -> None:
    """The wall was down, as far as statements of all kinds came along."""
    lines = set(record.read_text().splitlines())
    assert [line for line in lines if line.startswith("left:")] == []
    changed = " ".join(lines)
    for sign in ("SELECT", "UPDATE callboard.jobs", "ORDER BY", "LATERAL", "callboard.api_keys", "INSERT INTO"):
        assert sign in changed, f"no statement with {sign} was unscoped"


@pytest.fixture(scope="module")
def theirs(server: WebServer, driver: Driver) -> Theirs:
    tenant, key = driver.tenant()
    mark = f"theirs{secrets.token_hex(8)}"
    marked = {"kwargs": f'{{"note": "{mark}"}}', "unique_scope": "live"}
    ids = [driver.enqueue(tenant, **marked, unique_key=f"{mark}-{n}")[0] for n in range(4)]
    _waiting, running, completed, failed = ids
    driver.claim(running, completed, failed)
    driver.complete(completed, result={"secret": mark})
    driver.fail(failed, f"broke: {mark}")
    driver.progress(running, 7)
    found = Theirs(tenant, key, mark, ids)
    listener = Listener(f"{server.url}/events", key=key)
    wait_for(lambda: listener.last_event_id, what="their stream names a place")
    listener.close()
    tickets = []
    for body in ({}, {"job": running}):
        answer = httpx.post(f"{server.url}/events/tickets", json=body, headers={"Authorization": f"Bearer {key}"})
        tickets += parse_qs(urlsplit(answer.json()["url"]).query)["ticket"]
    with driver.engine.connect() as connection:
        key_ids = [row.id for row in tenancy.list_keys(connection, tenant)]
    found.values = {
        "job": ids,
        "key": key_ids,
        "cursor": [cursor_of_text(job_id) for job_id in ids],
        "event": [str(listener.last_event_id)],
        "ticket": tickets,
        "unique_key": [f"{mark}-0"],
    }
    return found


def cursor_of_text(job_id: str) -> str:
    from uuid import UUID

    return cursor_of(UUID(job_id))


@pytest.fixture(scope="module")
def mine(server: WebServer, driver: Driver) -> Mine:
    tenant, key = driver.tenant()
    [job] = driver.enqueue(tenant)
    with driver.engine.connect() as connection:
        tenancy.set_operator(connection, "olga", "correct horse battery")
        token = tenancy.redeem_sign_in_link(connection, tenancy.create_sign_in_link(connection, "olga", tenant))
        assert token is not None
        session = connection.execute(tenancy.find_session(), {"token_hash": tenancy.digest(token)}).one()
    assert session.tenant_id == tenant
    return Mine(tenant, key, job, token, session.csrf_token)


def ask(server: WebServer, case: Case, mine: Mine, value: str) -> httpx.Response:
    """The request of a case with one value of the other tenant's, and everything else the caller's own."""
    own = {"job_id": mine.job}
    path = case.path
    for name in re.findall(r"{(\w+)}", path):
        path = path.replace(f"{{{name}}}", value if (case.place, case.name) == ("path", name) else own[name])
    wanted: dict[str, Any] = {"headers": {}, "params": {}}
    if case.place == "query":
        wanted["params"][case.name] = value
    if case.place == "header":
        wanted["headers"][case.name] = value
    if case.place == "body":
        wanted["json"] = BODIES[case.method, case.path, case.name](value)
    if case.is_page:
        wanted["cookies"] = {"cb_session": mine.cookie}
        wanted["headers"]["X-CSRF-Token"] = mine.csrf_token
    else:
        wanted["headers"]["Authorization"] = f"Bearer {mine.key}"
    with httpx.Client(timeout=20, cookies=wanted.pop("cookies", None)) as client:
        return client.request(case.method, f"{server.url}{path}", **wanted)


def stream_of(server: WebServer, case: Case, mine: Mine, driver: Driver, value: str | None) -> Listener:
    """A stream opened by a case's request, after it has shown the caller's own job changing."""
    job = value if case.place == "path" and value else mine.job
    url = f"{server.url}{case.path.replace('{job_id}', job)}"
    if case.place == "query" and value is not None:
        url += f"?{case.name}={value}"
    listener = Listener(url, key=mine.key, last_event_id=value if case.place == "header" else None)
    if listener.status == 200:
        [other] = driver.enqueue(mine.tenant)
        seen = other if case.path == "/events" and case.name != "type" else mine.job
        wait_for(lambda: case.name == "type" or listener.statuses(seen), 15, what="the caller's own job is shown")
    listener.close()
    return listener


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_crosses(server: WebServer, case: Case, theirs: Theirs, mine: Mine, driver: Driver) -> None:
    before = driver.versions(theirs.tenant)
    kind = KINDS.get(case.name)
    for value in theirs.values[kind] if kind else [theirs.mark]:
        if case.is_stream:
            if kind == "ticket" and case.path == "/events" and value == theirs.values["ticket"][0]:
                continue  # whoever bears the ticket is who it was made for; that is what it is for
            listener = stream_of(server, case, mine, driver, value if case.place else None)
            assert not listener.states().keys() & set(theirs.jobs)
            if case.place == "path":
                assert listener.status == 404
            continue
        answer = ask(server, case, mine, value)
        assert answer.status_code < 500 or case.path == "/readyz"
        if case.place == "path" and answer.status_code == 303:  # an address of a button leads back to its page
            assert case.is_page
            assert case.method == "get"
            continue
        if case.place == "path" or (case.place == "body" and kind == "job"):
            assert answer.status_code == 404, answer.text
        shown = answer.text.replace(value, "")  # what was asked for may be repeated
        assert theirs.mark not in shown.replace(theirs.mark + "-0", "")
        assert theirs.tenant not in shown
        assert [job_id for job_id in theirs.jobs if job_id in shown] == []
    assert driver.versions(theirs.tenant) == before


def test_the_other_tenants_own_key_sees_it_all(server: WebServer, theirs: Theirs) -> None:
    """There was something to be seen."""
    answer = httpx.get(f"{server.url}/jobs", headers={"Authorization": f"Bearer {theirs.key}"})
    assert answer.text.count(theirs.mark) >= 4
    assert {job["id"] for job in answer.json()["jobs"]} == set(theirs.jobs)


def test_keys_of_another_tenant_are_not_listed_nor_revoked(server: WebServer, theirs: Theirs, mine: Mine) -> None:
    cookies = {"cb_session": mine.cookie}
    with httpx.Client(base_url=server.url, cookies=cookies) as browser:
        page = browser.get("/keys").text
        assert theirs.values["key"][0] not in page
        assert tenancy.split_key(mine.key)[0] in page  # type: ignore[index]
        made = browser.post("/keys", data={"csrf_token": mine.csrf_token, "label": "mine"})
        assert made.status_code == 201
    assert httpx.get(f"{server.url}/jobs", headers={"Authorization": f"Bearer {theirs.key}"}).status_code == 200


def test_repair_shows_each_stream_its_own(server: WebServer, theirs: Theirs, mine: Mine, driver: Driver) -> None:
    """What was not announced is found by the statements that look for it, tenant by tenant."""
    listeners = [Listener(f"{server.url}/events", key=key) for key in (mine.key, theirs.key)]
    [job] = driver.enqueue(mine.tenant, announce=False)
    wait_for(lambda: listeners[0].statuses(job), 15, what="the repair finds the job")
    driver.progress(theirs.jobs[1], 9, announce=False)
    wait_for(lambda: (listeners[1].states()[theirs.jobs[1]]["progress"] or {}).get("current") == 9, 15)
    assert not listeners[0].states().keys() & set(theirs.jobs)
    assert job not in listeners[1].states()
    for listener in listeners:
        listener.close()


def test_without_either_wall_it_would_cross(theirs: Theirs, mine: Mine, driver: Driver, database_owner: Any) -> None:
    """What the runs above rest on: the torn-down statement finds the other tenant's row unless the wall is there."""
    statement = queries.one_job().compile(dialect=psycopg_dialect())
    values = {"tenant": mine.tenant, "job_id": theirs.jobs[0]}
    with driver.engine.connect() as connection:
        assert connection.exec_driver_sql(str(statement), values).all() == []
        assert len(connection.exec_driver_sql(unscoped(str(statement)), values).all()) == 1
        role = rls.quoted(rls.web_role("callboard", database_owner[0]))
        connection.execute(text(f"SET ROLE {role}"))
        try:
            assert connection.exec_driver_sql(unscoped(str(statement)), values).all() == []
            connection.execute(text("SELECT set_config('callboard.tenant', :tenant, false)"), {"tenant": mine.tenant})
            assert connection.exec_driver_sql(unscoped(str(statement)), values).all() == []
        finally:
            connection.execute(text("RESET ROLE"))
            connection.execute(text("RESET callboard.tenant"))
