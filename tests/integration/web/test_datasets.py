"""Datasets by HTTP: put, get, replaced, deleted, expired, refused; one tenant's are nobody else's."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from sqlalchemy import text

from actors.runtime.broker import make_broker
from actors.runtime.pruner import Pruner
from models import datasets
from tests.conftest import clean_environment
from tests.ledger_driver import Driver
from tests.support import wait_for
from tests.web_server import WebServer

pytestmark = pytest.mark.once

ROWS = b"city,price\nBern,1.50\n"
CSV = {"Content-Type": "text/csv"}


def put(api: httpx.Client, body: bytes = ROWS, dataset: UUID | None = None, **headers: str) -> httpx.Response:
    return api.put(f"/datasets/{dataset or uuid4()}", content=body, headers={**CSV, **headers})


def count(driver: Driver, table: str = "dataset_contents") -> int:
    with driver.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM callboard.{table}")).scalar_one())


def test_what_is_put_can_be_got_and_deleted(api: httpx.Client) -> None:
    dataset = uuid4()
    answer = put(api, dataset=dataset)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/datasets/{dataset}"
    told = answer.json()
    digest = hashlib.sha256(ROWS).hexdigest()
    assert (told["size"], told["lines"], told["sha256"]) == (len(ROWS), 2, digest)
    got = api.get(answer.headers["location"])
    assert got.content == ROWS
    assert got.headers["content-type"] == "text/csv; charset=utf-8"
    assert got.headers["etag"] == answer.headers["etag"] == f'"{digest}"'
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-disposition"].startswith("attachment")
    head = api.head(answer.headers["location"])
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(ROWS)), b"")
    known = api.get(answer.headers["location"], headers={"If-None-Match": got.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert api.delete(answer.headers["location"]).status_code == 204
    assert api.get(answer.headers["location"]).status_code == 404
    assert api.delete(answer.headers["location"]).status_code == 404


def test_the_second_put_replaces(api: httpx.Client) -> None:
    dataset = uuid4()
    first = put(api, dataset=dataset).json()
    lines = b'{"a": 1}\n{"a": 2}'
    answer = put(api, lines, dataset, **{"Content-Type": "application/x-ndjson; charset=UTF-8"})
    assert answer.status_code == 200
    assert (answer.json()["lines"], answer.json()["created_at"]) == (2, first["created_at"])
    got = api.get(f"/datasets/{dataset}")
    assert (got.content, got.headers["content-type"]) == (lines, "application/x-ndjson")


def test_the_list_goes_on_page_by_page(api: httpx.Client) -> None:
    ids = sorted(put(api).json()["id"] for _ in range(5))
    found, url = [], "/datasets?limit=2"
    while url:
        answer = api.get(url)
        found += [dataset["id"] for dataset in answer.json()["datasets"]]
        url = answer.links.get("next", {}).get("url", "")
    assert found == ids


@pytest.mark.parametrize(
    ("body", "content_type", "status", "said"),
    [
        (b"", "text/csv", 422, "empty"),
        (b"a\n\xff\n", "text/csv", 422, "UTF-8"),
        (b"a\nx\0\n", "text/csv", 422, "NUL at byte 3"),
        (b"a\n\xc3", "application/jsonl", 422, "UTF-8"),
        (ROWS, "application/json", 415, "text/csv"),
        (ROWS, "text/csv; charset=latin-1", 415, "UTF-8"),
        (ROWS, "multipart/form-data; boundary=x", 415, "text/csv"),
        (ROWS, "", 415, "Content-Type"),
    ],
)
def test_what_is_no_dataset_is_refused(
    api: httpx.Client, driver: Driver, body: bytes, content_type: str, status: int, said: str
) -> None:
    before, dataset = count(driver), uuid4()
    answer = put(api, body, dataset, **{"Content-Type": content_type})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in answer.json()["detail"]
    assert api.get(f"/datasets/{dataset}").status_code == 404
    assert count(driver) == before


def test_a_bad_replacement_leaves_the_old_bytes(api: httpx.Client) -> None:
    dataset = uuid4()
    put(api, dataset=dataset)
    assert put(api, b"a" * 600_000 + b"\xff", dataset).status_code == 422
    assert api.get(f"/datasets/{dataset}").content == ROWS


@pytest.mark.parametrize(
    "path", ["/datasets/nope", "/datasets/{" + str(UUID(int=1)) + "}", f"/datasets/{UUID(int=1).hex}"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_no_uuid_is_not_there(api: httpx.Client, method: str, path: str) -> None:
    assert api.request(method, path, headers=CSV, content=ROWS).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/datasets"), *((m, "/datasets/{}") for m in ("GET", "PUT", "DELETE"))]
)
def test_unknown_parameters_and_nobody_are_refused(
    api: httpx.Client, nobody: httpx.Client, method: str, path: str
) -> None:
    path = path.format(uuid4())
    assert api.request(method, path, params={"x": "1"}, headers=CSV).status_code == 400
    assert nobody.request(method, path, headers=CSV).status_code == 401


def test_another_method_is_405_and_all_are_named(api: httpx.Client) -> None:
    answer = api.post(f"/datasets/{uuid4()}")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "DELETE"}


def test_another_tenants_dataset_is_not_there(api: httpx.Client, driver: Driver, web: WebServer) -> None:
    dataset = uuid4()
    put(api, dataset=dataset)
    _, key = driver.tenant()
    with httpx.Client(base_url=web.url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as other:
        assert other.get(f"/datasets/{dataset}").status_code == 404
        assert other.delete(f"/datasets/{dataset}").status_code == 404
        assert other.get("/datasets").json() == {"datasets": [], "next": None}
        # The same id in its own namespace: new there, and nothing happens here.
        assert put(other, b"theirs\n", dataset).status_code == 201
        assert api.get(f"/datasets/{dataset}").content == ROWS
        assert other.delete(f"/datasets/{dataset}").status_code == 204
    assert api.get(f"/datasets/{dataset}").content == ROWS


def test_fifty_mebibytes_pass_through_little_memory(api: httpx.Client, web: WebServer) -> None:
    assert web.process is not None
    process, dataset = psutil.Process(web.process.pid), uuid4()
    put(api)  # whatever the first one loads
    before, peak, over = process.memory_info().rss, 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    def body() -> Iterator[bytes]:
        yield b"a\n"
        for _ in range(50 * 16 - 1):
            yield b"x" * 65_535 + b"\n"

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        answer = api.put(f"/datasets/{dataset}", content=body(), headers=CSV, timeout=60)
        digest = hashlib.sha256()
        with api.stream("GET", f"/datasets/{dataset}", timeout=60) as got:
            for part in got.iter_bytes():
                digest.update(part)
    finally:
        over.set()
        watcher.join()
    assert answer.status_code == 201, answer.text
    assert answer.json()["size"] == 2 + 799 * 65_536
    assert digest.hexdigest() == answer.json()["sha256"]
    print(f"50 MiB in and out: {(peak - before) / 1024 / 1024:.1f} MiB more")
    # Chunks of 256 KiB, and what Python and the driver hold of a few of them.
    assert peak - before < 16 * 1024 * 1024, f"{(peak - before) / 1024 / 1024:.1f} MiB"


@pytest.mark.parametrize("declared", [True, False])
def test_a_byte_more_is_refused(api: httpx.Client, driver: Driver, declared: bool) -> None:
    before = count(driver)

    def body() -> Iterator[bytes]:
        for _ in range(801):
            yield b"x" * 65_536

    headers = {**CSV, **({"Content-Length": str(801 * 65_536)} if declared else {})}
    try:
        answer = api.put(f"/datasets/{uuid4()}", content=body(), headers=headers, timeout=60)
    except httpx.WriteError:
        pass  # the connection was closed on who still sends
    else:
        assert answer.status_code == 413
        assert answer.json()["detail"].startswith("The body is larger than 52,428,800 bytes")
    wait_for(lambda: count(driver) == before, what="nothing remains of the upload")


def test_an_upload_that_breaks_off_leaves_nothing(api: httpx.Client, driver: Driver) -> None:
    before, dataset = count(driver), uuid4()
    put(api, dataset=dataset)

    def body() -> Iterator[bytes]:
        yield b"x" * 600_000
        wait_for(lambda: count(driver) == before + 2, what="the upload has begun")
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        api.put(f"/datasets/{dataset}", content=body(), headers=CSV)
    wait_for(lambda: count(driver) == before + 1, what="nothing remains of the upload")
    assert api.get(f"/datasets/{dataset}").content == ROWS


def prune(web_environment: dict[str, str]) -> None:
    """What maintenance does every minute."""
    with clean_environment(**web_environment):
        broker = make_broker()
        Pruner(broker).run_once()
        broker.close()


def test_an_upload_that_has_ended_well_is_not_forgotten(api: httpx.Client, driver: Driver) -> None:
    """A client may vanish, or the time be over, just when the dataset has become what it sent."""
    dataset = uuid4()
    put(api, dataset=dataset)
    with driver.engine.connect() as connection:
        content = connection.execute(text("SELECT content_id FROM callboard.datasets WHERE id = :id"), {"id": dataset})
        connection.execute(datasets.drop_content(), {"content": content.scalar_one()})
    assert api.get(f"/datasets/{dataset}").content == ROWS


def test_a_reader_gets_the_old_bytes_or_the_new_ones(api: httpx.Client, web_environment: dict[str, str]) -> None:
    """While a slow reader reads, the dataset is replaced, and then deleted."""
    dataset = uuid4()
    versions = [bytes([letter]) * (48 * datasets.CHUNK_BYTES) for letter in b"ab"]  # more than sockets take
    put(api, versions[0], dataset)
    readers, got = [], []
    for following in (versions[1], None):
        stream = api.stream("GET", f"/datasets/{dataset}")
        response = stream.__enter__()
        readers.append((stream, response.iter_raw(1024)))
        next(readers[-1][1])
        if following is None:
            assert api.delete(f"/datasets/{dataset}").status_code == 204
        else:
            assert put(api, following, dataset).status_code == 200
        prune(web_environment)
    for stream, parts in readers:
        got.append({byte for part in parts for byte in part})
        stream.__exit__(None, None, None)
    assert got == [{ord("a")}, {ord("b")}]


def test_writers_at_once_leave_one_version_whole(api: httpx.Client) -> None:
    dataset = uuid4()
    versions = [bytes([letter]) * 700_000 for letter in b"abcdefgh"]
    answers: list[int] = []

    def write(version: bytes) -> None:
        answers.append(put(api, version, dataset).status_code)

    writers = [threading.Thread(target=write, args=(version,)) for version in versions]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(answers) == [200] * 7 + [201]
    assert api.get(f"/datasets/{dataset}").content in versions


def test_what_has_expired_is_gone_and_then_deleted(
    api: httpx.Client, driver: Driver, web_environment: dict[str, str]
) -> None:
    kept, expired = uuid4(), uuid4()
    for dataset in (kept, expired):
        put(api, b"x" * 600_000, dataset)
    api.get(f"/datasets/{kept}")
    with driver.engine.connect() as connection:
        past = "UPDATE callboard.dataset_contents SET expires_at = now() - interval '1 s' WHERE id = (SELECT content_id"
        connection.execute(text(f"{past} FROM callboard.datasets WHERE id = :id)"), {"id": expired})
    assert api.get(f"/datasets/{expired}").status_code == 404
    assert api.delete(f"/datasets/{expired}").status_code == 404
    assert str(expired) not in json.dumps(api.get("/datasets").json())
    before = count(driver, "dataset_chunks")
    prune(web_environment)
    assert count(driver, "dataset_chunks") == before - 3
    with driver.engine.connect() as connection:
        left = set(connection.execute(text("SELECT id FROM callboard.datasets")).scalars())
    assert kept in left
    assert expired not in left
    assert put(api, dataset=expired).status_code == 201


def test_use_puts_the_end_off(api: httpx.Client, driver: Driver) -> None:
    dataset = uuid4()
    put(api, dataset=dataset)
    with driver.engine.connect() as connection:
        connection.execute(text("UPDATE callboard.dataset_contents SET expires_at = now() + interval '1 h'"))
    api.head(f"/datasets/{dataset}")
    [told] = api.get("/datasets").json()["datasets"]
    with driver.engine.connect() as connection:
        week = text("SELECT CAST(:told AS timestamptz) > now() + interval '6 d'")
        assert connection.execute(week, {"told": told["expires_at"]}).scalar_one()
