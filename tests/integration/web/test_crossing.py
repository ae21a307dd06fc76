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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text
from starlette.routing import Route

import actors  # noqa: F401 - installs the broker and the job types
from actors.runtime.job_type import job_types
from models import queries, rls, tenancy
from models.engine import psycopg_dialect
from tests.integration.cron_support import declare
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.unscoped import unscoped
from tests.web_server import Listener, WebServer
from web.openapi import document
from web.routes import routes

METHODS = ("get", "post", "put", "patch", "delete")
#: What a parameter or a field of a body names → which of the other tenant's things are tried there.
KINDS = {
    "job_id": "job",
    "job": "job",
    "key_id": "key",
    "after": "cursor",  # and the path: each list has cursors of its own
    "Last-Event-ID": "event",
    "ticket": "ticket",
    "unique_key": "unique_key",
    "Idempotency-Key": "idempotency_key",
    "name": "schedule",
    "path": "address",  # below /dashboard/queues
    "queue": "queue",
    "dataId": "dataset",
    "cafe_id": "cafe",
    "cafeId": "cafe",
    "city": "city",
    "sourcePlaceId": "place",
}
#: Parameters and fields that name nothing that belongs to anybody.
HARMLESS = {"status", "type", "limit", "jobs", "decision", "Prefer", "If-None-Match"}
#: Fields of bodies by the look of whose name they name something, and so must be in KINDS or here.
NAMING = re.compile(r"(^|_)(id|ids|key|keys|token|cursor|ticket|job|jobs|tenant|dataset)$|(Id|Ids|Key)$")
#: What the pages are asked for; they are not in the document.
PAGE_QUERIES = {"/": ("after", "queue"), "/board/cafes": ("city",)}
SLEEP = {"type": "sleep", "payload": {"delayMs": 1}, "options": {"delay": 600_000}}


def keyed(value: str) -> dict[str, Any]:
    return {**SLEEP, "options": {"unique_key": value, "delay": 600_000}}


def job_of(kind: str, **payload: Any) -> dict[str, Any]:
    return {**SLEEP, "type": kind, "payload": payload}


def one_cafe(place: str) -> dict[str, Any]:
    return {"cafes": [{"name": "Mine", "city": "Wien", "countryCode": "AT", "sourcePlaceId": place}]}


#: How a body looks that carries a field (none: that a header goes with): (method, path, field) → body with the value.
BODIES: dict[tuple[str, str, str], Any] = {
    ("post", "/jobs", ""): lambda _: SLEEP,
    ("post", "/jobs", "unique_key"): keyed,
    ("post", "/jobs", "dataId"): lambda value: job_of("data_processing", dataId=value, operation="profile"),
    ("post", "/jobs", "cafeId"): lambda value: job_of("process-cafe", cafeId=value),
    ("post", "/events/tickets", "job"): lambda value: {"job": value},
    ("post", "/cafes/import", "sourcePlaceId"): one_cafe,
}
BODIES |= {
    ("post", "/jobs/batch", field): lambda value, one=one: {"jobs": [one(value)]}
    for (_, path, field), one in BODIES.items()
    if path == "/jobs"
}


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
                    if NAMING.search(name) and name not in HARMLESS:
                        yield Case(method, path, "body", name)


def cases_of_pages(api: dict[str, Any]) -> Iterator[Case]:
    """Pages are not in the document: what they show unasked, and what their paths and queries name."""
    for route in routes():
        if isinstance(route, Route) and route.path not in api["paths"]:
            for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
                for name in route.param_convertors:
                    yield Case(method.lower(), route.path, "path", name, is_page=True)
                if method == "GET":
                    asked = PAGE_QUERIES.get(route.path, ())
                    yield from (Case("get", route.path, "query", name, is_page=True) for name in asked)
                    if not route.param_convertors:
                        yield Case("get", route.path, is_page=True)


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
    own: dict[str, str]  # what stands in a path where nothing of the other tenant's does


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
    tables = ["jobs", "api_keys", "schedules", "ticks"]
    tables += ["datasets"] if "/datasets" in API["paths"] else []
    tables += ["cafes", "cities"] if "/cafes" in API["paths"] else []
    signs = ["SELECT", "UPDATE callboard.jobs", "ORDER BY", "LATERAL", "INSERT INTO"]
    for sign in (*signs, *(f"callboard.{table}" for table in tables)):
        assert sign in changed, f"no statement with {sign} was unscoped"


@pytest.fixture(scope="module")
def theirs(server: WebServer, driver: Driver) -> Theirs:
    tenant, key = driver.tenant()
    mark = f"theirs{secrets.token_hex(8)}"
    marked = {"kwargs": f'{{"note": "{mark}"}}', "unique_scope": "live"}
    ids = [driver.enqueue(tenant, **marked, unique_key=f"{mark}-{n}")[0] for n in range(4)]
    _waiting, running, completed, failed = ids
    queue = f"only-{secrets.token_hex(8)}"
    ids += driver.enqueue(tenant, kwargs=marked["kwargs"], queue=queue)
    driver.claim(running, completed, failed)
    driver.complete(completed, result={"secret": mark})
    driver.fail(failed, f"broke: {mark}")
    driver.progress(running, 7)
    declare(driver.engine, tenant, f"{mark}-hourly", kwargs=f'{{"note": "{mark}"}}')
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
        "event": [str(listener.last_event_id)],
        "ticket": tickets,
        "unique_key": [f"{mark}-0"],
        "schedule": [f"{mark}-hourly"],
        "queue": [queue],
        "address": [f"queues/{queue}", f"queues/{queue}/standard", f"queues/default/standard/{running}"],
    }
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as client:
        found.values |= made_by_http(client, mark)
        found.values |= {f"cursor of {path}": [cursor] for path, cursor in cursors(client)}
        found.jobs += [job["id"] for job in client.get("/jobs", params={"limit": 100}).json()["jobs"]]
    found.jobs = sorted(set(found.jobs))
    return found


def made_by_http(client: httpx.Client, mark: str) -> dict[str, list[str]]:
    """What a tenant makes by requests: things of domains only where the domain is there."""
    made: dict[str, list[str]] = {}
    for path, body in {"/jobs": SLEEP, "/jobs/batch": {"jobs": [SLEEP]}}.items():
        name = f"{mark}{path}"
        assert client.post(path, json=body, headers={"Idempotency-Key": name}).status_code == 202
        made[f"idempotency_key of {path}"] = [name]
    if "/datasets" in API["paths"]:
        made["dataset"] = [str(uuid4()), str(uuid4())]
        for dataset in made["dataset"]:
            rows = f"note\n{mark}\n"
            put = client.put(f"/datasets/{dataset}", content=rows, headers={"Content-Type": "text/csv"})
            assert put.status_code == 201
    if "/cafes" in API["paths"]:
        cafes = [
            {"name": f"{mark} {n}", "city": mark, "countryCode": "AT", "sourcePlaceId": f"{mark}-{n}"} for n in range(2)
        ]
        assert client.post("/cafes/import", json={"cafes": cafes}).json() == {"created": 2, "updated": 0}
        made["cafe"] = [cafe["id"] for cafe in client.get("/cafes").json()["cafes"]]
        made["city"] = [mark]
        made["place"] = [f"{mark}-0"]
    return made


def cursors(client: httpx.Client) -> Iterator[tuple[str, str]]:
    """A cursor of each list that has pages."""
    for case in CASES:
        if case.name == "after" and not case.is_page:
            yield case.path, client.get(case.path, params={"limit": 1}).json()["next"]


def all_of(server: WebServer, case: Case, theirs: Theirs, driver: Driver) -> tuple[Any, ...]:
    """What a request of the other tenant must not change: of one that only reads, their jobs; else all there is."""
    versions = driver.versions(theirs.tenant)
    if case.method == "get":
        return (versions,)
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {theirs.key}"}, timeout=20) as client:
        shown = [client.get(path).text for path in ("/datasets", "/cafes", "/cities") if path in API["paths"]]
        crons = client.get("/crons").json()["crons"]
    return versions, shown, [(cron["state"], cron["last"]) for cron in crons]


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
    declare(driver.engine, tenant, "mine")
    own = {"job_id": job, "name": "mine", "decision": "publish", "cafe_id": str(uuid4()), "dataId": str(uuid4())}
    return Mine(tenant, key, job, token, session.csrf_token, own)


def ask(server: WebServer, case: Case, mine: Mine, value: str) -> httpx.Response:
    """The request of a case with one value of the other tenant's, and everything else the caller's own."""

    def part(found: re.Match[str]) -> str:
        return value if (case.place, case.name) == ("path", found[1]) else mine.own[found[1]]

    path = re.sub(r"{(\w+)(?::\w+)?}", part, case.path)
    wanted: dict[str, Any] = {"headers": {}, "params": {}}
    if case.place == "query":
        wanted["params"][case.name] = value
    if case.place == "header":
        wanted["headers"][case.name] = value
    body = BODIES.get((case.method, case.path, case.name if case.place == "body" else ""))
    if body is not None:
        wanted["json"] = body(value)
    if case.method == "put":
        wanted |= {"content": "note\nmine\n"}
        wanted["headers"]["Content-Type"] = "text/csv"
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


def kind_of(case: Case) -> str | None:
    """What a case's value is of; cursors and keys of requests are each path's own."""
    kind = KINDS.get(case.name)
    if kind in ("cursor", "idempotency_key"):
        return f"{kind} of {'/jobs' if case.is_page else case.path}"
    return kind


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_crosses(server: WebServer, case: Case, theirs: Theirs, mine: Mine, driver: Driver) -> None:
    before = all_of(server, case, theirs, driver)
    kind = kind_of(case)
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
        if case.method == "put":  # whose id is chosen by whoever puts it: now both have one
            assert answer.status_code == 201
            assert ask(server, replace(case, method="get"), mine, value).text == "note\nmine\n"
            assert ask(server, replace(case, method="delete"), mine, value).status_code == 204
        elif case.place == "path" or (case.place == "body" and kind == "job"):
            # That a café is not there, or not in a state for this, is one answer.
            assert answer.status_code == 404 or (case.name == "cafe_id" and answer.status_code == 409), answer.text
        elif case.place == "body" or case.name == "Idempotency-Key":
            assert answer.is_success, answer.text  # as if the other tenant had no such thing
            assert "Idempotent-Replayed" not in answer.headers
        shown = answer.text
        for asked in (value, *value.split("/")):
            shown = shown.replace(asked, "")  # what was asked for may be repeated
        assert theirs.mark not in shown.replace(theirs.mark + "-0", "")
        assert theirs.tenant not in shown or case.path == "/tenants"  # which operators see
        assert theirs.values["queue"][0] not in shown
        for name in ("job", "dataset", "cafe"):
            assert [its_id for its_id in theirs.values.get(name, ()) if its_id in shown] == []
        assert [job_id for job_id in theirs.jobs if job_id in shown] == []
    assert all_of(server, case, theirs, driver) == before


def test_the_other_tenants_own_key_sees_it_all(server: WebServer, theirs: Theirs) -> None:
    """There was something to be seen."""
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {theirs.key}"}) as client:
        answer = client.get("/jobs")
        assert answer.text.count(theirs.mark) >= 4
        assert {job["id"] for job in answer.json()["jobs"]} == set(theirs.jobs)
        for path in {"/crons", "/cafes", "/cities"} & API["paths"].keys():
            assert theirs.mark in client.get(path).text
        assert theirs.values["queue"][0] in client.get("/queues").text
        for dataset in theirs.values.get("dataset", ()):
            assert theirs.mark in client.get(f"/datasets/{dataset}").text


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
