"""The spine: one ``up``, and everything that it promises to whoever sends, watches, cancels and kills."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from tests.acceptance.spine import RELOAD_S, Spine
from tests.support import wait_for
from tests.unit.hook_server import Answer, HookServer, plain, serving
from tests.web_server import Listener

Measured = Callable[[str], None]

# -- one new file ---------------------------------------------------------------------------------------------

BREW = '''
"""``brew-coffee``: a job type for a test."""

import dramatiq
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from actors.runtime import current_job, job_type


class Coffee(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    shot_count: int = Field(ge=1, le=4)
    guest: str = "nobody"


@job_type(Coffee)
@dramatiq.actor(actor_name="brew-coffee")
def brew_coffee(shot_count: int, guest: str = "nobody") -> dict[str, object]:
    """Brew a coffee."""
    current_job().wait(0.3)
    current_job().progress(shot_count, shot_count, "brewed")
    return {"brewed": shot_count, "for": guest}
'''


@pytest.fixture(scope="module")
def brewing(spine: Spine, request: pytest.FixtureRequest) -> str:
    """The new job type's name, once one file was dropped and nothing else done; and a job sent in that moment."""
    assert not spine.knows("brew-coffee")
    (spine.clone.folder / "actors" / "brewing.py").write_text(BREW)
    # Sent by somebody who has the new code while the workers still have the old.
    request.config.stash[EARLY] = spine.python(
        "from actors import brew_coffee; print(brew_coffee.send(shot_count=4).message_id)"
    )
    wait_for(lambda: spine.knows("brew-coffee"), RELOAD_S, interval=0.1, what="the web offers the new type")
    spine.worker_pids()
    return "brew-coffee"


EARLY = pytest.StashKey[str]()


def watch(spine: Spine, job_id: str, last: str = "COMPLETED") -> list[str]:
    """Follow one job by its event stream to its end; returns the statuses that were seen, repetitions left out."""
    listener = Listener(f"{spine.url}/jobs/{job_id}/events", key=spine.told["api_key"])
    try:
        assert listener.status == 200
        wait_for(lambda: last in listener.statuses(job_id), 20, what=f"{last} on the stream")
    finally:
        listener.close()
    assert listener.went_backwards() == []
    seen = listener.statuses(job_id)
    return [status for before, status in zip([None, *seen], seen, strict=False) if status != before]


def test_a_new_file_is_a_job_type_that_can_be_posted_and_watched(spine: Spine, brewing: str) -> None:
    job_id = spine.send(brewing, {"shotCount": 2, "guest": "Ada"})
    seen = watch(spine, job_id)
    assert seen == [s for s in ("PENDING", "RUNNING", "COMPLETED") if s in seen], "in order, none twice"
    with spine.api() as api:
        job = api.get(f"/jobs/{job_id}").json()
        assert api.get(f"/jobs/{job_id}/result").json()["result"] == {"brewed": 2, "for": "Ada"}
    assert (job["status"], job["attempts"], job["errors"]) == ("COMPLETED", 1, [])
    assert job["payload"] == {"shotCount": 2, "guest": "Ada"}
    assert job["progress"] == {"current": 2, "total": 2, "message": "brewed"}


def test_a_new_file_is_listed_and_described(spine: Spine, brewing: str) -> None:
    with spine.api() as api:
        [kind] = [k for k in api.get("/job-types").json()["job_types"] if k["type"] == brewing]
        described = api.get("/openapi.json").json()
    assert kind["description"] == "Brew a coffee."
    assert set(kind["payload_schema"]["properties"]) == {"shotCount", "guest"}
    schemas = described["components"]["schemas"]
    assert schemas["Send.brew-coffee"]["properties"]["type"]["const"] == brewing
    assert {"$ref": "#/components/schemas/Send.brew-coffee"} in schemas["Send"]["oneOf"]


def test_a_new_file_is_validated(spine: Spine, brewing: str) -> None:
    before = spine.count()
    with spine.api() as api:
        answer = api.post("/jobs", json={"type": brewing, "payload": {"shotCount": 5, "milk": True}})
    pointers = {fault["pointer"] for fault in problem(answer, 422)["errors"]}
    assert pointers == {"/payload/shotCount", "/payload/milk"}
    assert spine.count() == before


def test_a_new_file_is_sent_by_send(spine: Spine, brewing: str) -> None:
    code = (
        "from actors import brew_coffee; "
        "sent = brew_coffee.send(shot_count=3); print(sent.message_id, sent.get_result(block=True))"
    )
    job_id, _, result = spine.python(code).partition(" ")
    assert result == "{'brewed': 3, 'for': 'nobody'}"
    assert watch(spine, job_id) == ["COMPLETED"]
    assert spine.job(job_id)["actor"] == brewing


def test_what_was_sent_before_the_workers_knew_the_file_runs_too(
    spine: Spine, brewing: str, request: pytest.FixtureRequest
) -> None:
    row = spine.wait_for_status(request.config.stash[EARLY], "COMPLETED")
    assert (row["actor"], row["attempts"], row["errors"]) == (brewing, 1, [])


def test_a_new_file_is_on_the_boards_form(spine: Spine, brewing: str) -> None:
    with httpx.Client(base_url=spine.url, follow_redirects=True, timeout=20) as browser:
        board = browser.get(spine.sign_in_link())
        assert (board.status_code, board.url.path) == (200, "/")
        assert len(board.history) == 1
        send_a_coffee(spine, browser, brewing)
    with httpx.Client(base_url=spine.url, timeout=20) as somebody_else:
        assert somebody_else.get(spine.sign_in_link()).status_code == 403, "the link works once"


def test_the_form_is_there_for_who_signs_in_by_password(spine: Spine, brewing: str) -> None:
    account = {"username": spine.told["operator_user"], "password": spine.told["operator_password"]}
    with httpx.Client(base_url=spine.url, follow_redirects=True, timeout=20) as browser:
        assert browser.get("/send").url.path == "/sign-in"
        assert browser.post("/sign-in", data={**account, "password": "wrong"}).status_code == 403
        assert browser.post("/sign-in", data=account).url.path == "/"
        send_a_coffee(spine, browser, brewing)


def send_a_coffee(spine: Spine, browser: httpx.Client, job_type: str) -> None:
    """Fill in the new type's form, first wrongly."""
    page = browser.get("/send", params={"type": job_type}).text
    assert re.search(r'name="p\.shotCount"[^>]* min="1" max="4"', page), page
    token = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert token is not None
    form = {"type": job_type, "csrf_token": token[1], "p.guest": "Bo <b>"}
    before = spine.count()
    assert browser.post("/send", data={**form, "p.shotCount": "9"}).status_code == 422
    assert browser.post("/send", data={**form, "p.shotCount": "1", "csrf_token": "x"}).status_code == 403
    assert spine.count() == before
    sent = browser.post("/send", data={**form, "p.shotCount": "1"})
    assert sent.status_code == 200
    row = spine.wait_until_ended(sent.url.path.rpartition("/")[2])
    assert (row["status"], row["result"]) == ("COMPLETED", {"brewed": 1, "for": "Bo <b>"})
    assert "Bo &lt;b&gt;" in browser.get(sent.url.path).text


# -- webhooks -------------------------------------------------------------------------------------------------


def failing(times: int, status: int = 500) -> Answer:
    """Answers ``status`` so many times, then 200."""

    def answer(handler: BaseHTTPRequestHandler, server: HookServer) -> None:
        plain(status if len(server.seen) <= times else 200)(handler, server)

    return answer


def call(spine: Spine, server: HookServer, path: str = "/hook") -> dict[str, Any]:
    """Send a webhook with a short backoff; returns its row when it has ended."""
    payload = {"url": f"{server.url}{path}", "body": {"order": 7}}
    job_id = spine.send("webhook", payload, backoff={"type": "fixed", "delay": 100})
    row = spine.wait_until_ended(job_id, 20)
    assert {seen.headers["webhook-id"] for seen in server.seen} == {f"msg_{job_id}"}
    assert [seen.headers["webhook-attempt"] for seen in server.seen] == [str(n + 1) for n in range(len(server.seen))]
    return row


def told(row: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Number, kind and message of each error kept."""
    return [(entry["attempt"], entry["kind"], entry["message"]) for entry in row["errors"]]


def test_a_webhook_that_fails_twice_completes_at_the_third_attempt(spine: Spine) -> None:
    with serving(failing(2)) as server:
        row = call(spine, server)
    assert (row["status"], row["attempts"], row["error"]) == ("COMPLETED", 3, None)
    message = "webhook answered 500 Internal Server Error"
    assert told(row) == [(1, "failed", message), (2, "failed", message)]
    assert row["result"]["status"] == 200
    assert [(seen.method, json.loads(seen.body)) for seen in server.seen] == [("POST", {"order": 7})] * 3


def test_a_webhook_that_always_fails_is_failed_after_three_attempts(spine: Spine) -> None:
    with serving(failing(99, 503)) as server:
        row = call(spine, server)
        assert (row["status"], row["attempts"], row["max_attempts"]) == ("FAILED", 3, 3)
        assert [number for number, kind, text in told(row) if (kind, "503" in text) == ("failed", True)] == [1, 2, 3]
        assert "503" in row["error"]
        with spine.api() as api:
            assert problem(api.get(f"/jobs/{row['id']}/result"), 409)["job_status"] == "FAILED"
        assert len(server.seen) == 3


def test_a_webhook_that_is_gone_fails_at_once(spine: Spine) -> None:
    with serving(plain(410)) as server:
        row = call(spine, server)
    assert (row["status"], row["attempts"], len(server.seen)) == ("FAILED", 1, 1)
    assert told(row) == [(1, "failed", "webhook answered 410 Gone")]


def test_a_redirect_of_a_webhook_is_not_followed(spine: Spine) -> None:
    with serving(plain(302, Location="/elsewhere")) as server:
        row = call(spine, server)
    assert (row["status"], row["attempts"]) == ("FAILED", 3)
    assert [seen.path for seen in server.seen] == ["/hook"] * 3
    assert "302" in row["error"]
    assert "redirects are not followed" in row["error"]


# -- cancel, kill ---------------------------------------------------------------------------------------------


def test_a_running_sleep_is_cancelled_within_two_seconds(spine: Spine, measured: Measured) -> None:
    job_id = spine.send("sleep", {"delayMs": 60_000})
    spine.wait_for_status(job_id, "RUNNING")
    begun = time.monotonic()
    with spine.api() as api:
        assert api.post(f"/jobs/{job_id}/cancel").status_code == 202
    row = spine.wait_for_status(job_id, "CANCELLED")
    took = time.monotonic() - begun
    measured(f"cancel of a running sleep: {took:.2f} s")
    assert took <= 2.0
    assert row["attempts"] == 1
    with spine.api() as api:
        assert problem(api.post(f"/jobs/{job_id}/cancel"), 409)["job_status"] == "CANCELLED"


def begin_sleep(spine: Spine) -> tuple[str, str]:
    """Send a long sleep; returns its id and worker once the actor has begun (a mere claim would be given back)."""
    job_id = spine.send("sleep", {"delayMs": 40_000})
    row = wait_for(lambda: (row := spine.job(job_id))["progress"] and row, what="its first report")
    return job_id, str(row["worker_id"])


def one_sleep_each(spine: Spine, workers: dict[str, int]) -> dict[str, str]:
    """Worker → the one long sleep that runs there; what one worker took twice is cancelled again."""
    held: dict[str, str] = {}
    for _ in range(30):
        job_id, worker = begin_sleep(spine)
        if worker in held:
            spine.cancel(job_id)
        held.setdefault(worker, job_id)
        if len(held) == len(workers):
            return held
    raise AssertionError(f"all jobs went to {held}")


@pytest.mark.parametrize("victim", ["the leader", "the other worker"])
def test_one_of_two_workers_is_killed(spine: Spine, measured: Measured, victim: str) -> None:
    leader, _ = spine.leader()
    pids = spine.worker_pids()
    killed = leader if victim == "the leader" else next(worker for worker in pids if worker != leader)
    spared = next(worker for worker in pids if worker != killed)
    held = one_sleep_each(spine, pids)
    try:
        kill_and_look(spine, measured, pids[killed], victims=held[killed], others=held[spared])
        [died] = [row for row in spine.workers() if str(row["id"]) == killed]
        assert died["death"] == "crashed"
    finally:
        spine.cancel(*held.values())


def kill_and_look(spine: Spine, measured: Measured, pid: int, *, victims: str, others: str) -> None:
    """Kill one worker while it runs one job and another worker runs another."""
    undisturbed = spine.job(others)
    at = spine.value("SELECT clock_timestamp()")
    os.kill(pid, signal.SIGKILL)
    new = spine.send("sleep", {"delayMs": 1})

    begun = wait_for(lambda: spine.job(new)["started_at"], what="the new job starts")
    again = wait_for(lambda: (row := spine.job(victims))["attempts"] == 2 and row, what="the second attempt")
    new_took = (begun - spine.job(new)["created_at"]).total_seconds()
    again_took = (again["started_at"] - at).total_seconds()
    measured(f"second attempt {again_took:.2f} s after the kill, new job started after {new_took:.2f} s")
    assert again_took <= 3.0
    assert new_took <= 2.0
    assert spine.wait_until_ended(new)["attempts"] == 1

    assert pid not in spine.worker_pids().values(), "another worker has taken its place"
    # One death costs one attempt and one crash, also when everything has come back.
    again = spine.job(victims)
    assert [(e["attempt"], e["kind"]) for e in again["errors"]] == [(1, "crashed")]
    assert (again["status"], again["attempts"], again["crashes"]) == ("RUNNING", 2, 1)
    now = spine.job(others)
    assert (now["status"], now["attempts"], now["crashes"], now["errors"]) == ("RUNNING", 1, 0, [])
    assert now["attempt_token"] == undisturbed["attempt_token"]


# -- bad input ------------------------------------------------------------------------------------------------


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer that must have this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


def body(payload: str = '{"delayMs": 1}', more: str = "", job_type: str = '"sleep"') -> bytes:
    return f'{{"type": {job_type}, "payload": {payload}{more}}}'.encode()


def hook(value: str) -> bytes:
    """A webhook with this JSON as its body."""
    return body(f'{{"url": "https://a.example/", "body": {value}}}', job_type='"webhook"')


#: Body, status, and what the problem names: a JSON pointer, or words.
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "unknown type": (body(job_type='"nope"'), 422, "/type"),
    "an actor's Python name": (body(job_type='"call_webhook"'), 422, "/type"),
    "wrong payload": (body('{"delayMs": "soon"}'), 422, "/payload/delayMs"),
    "payload out of range": (body('{"delayMs": 60001}'), 422, "/payload/delayMs"),
    "no payload": (b'{"type": "sleep"}', 422, "/payload"),
    "extra field": (body(more=', "queue": "other"'), 422, "/queue"),
    "extra payload field": (body('{"delayMs": 1, "more": 2}'), 422, "/payload/more"),
    "10 MB": (hook('"' + "x" * 10_000_000 + '"'), 413, "1,048,576 bytes"),
    "invalid JSON": (b'{"type": "sleep", "payload"', 400, "not valid JSON"),
    "invalid UTF-8": (hook('"?"').replace(b"?", b"\xff"), 400, "UTF-8"),
    "NUL": (hook('"a\\u0000b"'), 400, "/payload/body"),
    "NUL in a URL": (hook("1").replace(b"a.example", b"a.exam\\u0000ple"), 400, "/payload/url"),
    "NUL in the type": (body(job_type='"sl\\u0000eep"'), 400, "/type"),
    "NUL in a unique key": (body(more=', "options": {"unique_key": "a\\u0000"}'), 400, "/options/unique_key"),
    "lone surrogate": (hook('"a\\udfffb"'), 400, "/payload/body"),
    "NaN": (hook("NaN"), 400, "/payload/body"),
    "NaN as a number": (body('{"delayMs": NaN}'), 400, "/payload/delayMs"),
    "1e400": (hook("[1e400]"), 400, "/payload/body/0"),
    "depth 10,000": (hook("[" * 10_000 + "]" * 10_000), 400, "deeper"),
    "5,000-digit integer": (hook("9" * 5_000), 400, "/payload/body"),
    "5,000-digit delay": (body(more=f', "options": {{"delay": {"9" * 5_000}}}'), 400, "/options/delay"),
    **{
        f"raw {name}": (body(more=f', "options": {{"{name}": {value}}}'), 422, f"/options/{name}")
        for name, value in {
            "max_retries": "9",
            "min_backoff": "1",
            "time_limit": "1",
            "max_age": "1",
            "throws": "[]",
            "retry_when": "null",
            "on_success": '"sleep"',
            "on_failure": '"sleep"',
            "pipe_target": "{}",
            "pipe_ignore": "true",
            "group_callbacks": "[]",
            "queue_name": '"other"',
            "eta": "1",
            "redis_message_id": '"x"',
            "store_results": "false",
            "tenant_id": '"default"',
        }.items()
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_body_is_refused_and_nothing_stored(spine: Spine, name: str) -> None:
    content, status, named = REFUSED[name]
    before = spine.count()
    with spine.api() as api:
        document = problem(api.post("/jobs", content=content, headers={"Content-Type": "application/json"}), status)
    if named.startswith("/"):
        faults = {fault["pointer"]: fault["detail"] for fault in document["errors"]}
        assert named in faults
        assert all(faults.values())
    else:
        assert named in document["detail"]
    assert spine.count() == before


@pytest.mark.parametrize("key", [None, "cb_000000000000_wrong", "nonsense", "the right id with another secret"])
def test_no_key_and_wrong_keys_are_refused(spine: Spine, key: str | None) -> None:
    before = spine.count()
    if key is not None and key.startswith("the right id"):
        key = spine.told["api_key"].rpartition("_")[0] + "_" + "A" * 43
    with spine.client(key) as client:
        answer = client.post("/jobs", json={"type": "sleep", "payload": {"delayMs": 1}})
    assert "key" in problem(answer, 401)["detail"]
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert spine.count() == before


@pytest.fixture(scope="module")
def other_tenants_key(spine: Spine) -> str:
    """A key of another tenant than ``default``."""
    made = spine.clone.call("keys", "create", "--tenant", "other", "--label", "test")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="module")
def running_sleep(spine: Spine) -> Iterator[str]:
    """A job that runs as long as this module's last tests."""
    job_id = spine.send("sleep", {"delayMs": 60_000})
    spine.wait_for_status(job_id, "RUNNING")
    yield job_id
    spine.cancel(job_id)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("GET", "/result"), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")]
)
def test_another_tenants_job_is_not_there(
    spine: Spine, other_tenants_key: str, running_sleep: str, method: str, path: str
) -> None:
    with spine.client(other_tenants_key) as other:
        assert other.get("/job-types").status_code == 200, "the key is good"
        theirs = problem(other.request(method, f"/jobs/{running_sleep}{path}"), 404)
        nobodys = problem(other.request(method, f"/jobs/{running_sleep[:-12]}000000000000{path}"), 404)
        assert other.get("/jobs").json()["jobs"] == []
    assert {**theirs, "detail": ""} == {**nobodys, "detail": ""}, "nothing tells the two apart"
    row = spine.job(running_sleep)
    assert (row["status"], row["cancel_requested_at"]) == ("RUNNING", None)
