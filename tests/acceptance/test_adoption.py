"""A service of somebody else's adopts Callboard: our wheel in its own environment, our tables in its own database."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from alembic.script import ScriptDirectory
from sqlalchemy import text

from dev.home import ROOT
from dev.migrations import alembic_config
from models.engine import make_engine
from models.settings import load_settings
from tests.acceptance.spine import Spine
from tests.acceptance.venv import INSTALL_S, UV, Venv, build_wheel
from tests.conftest import SECRET_KEY, clean_environment, new_database, with_database
from tests.integration.worker_support import Ledger
from tests.support import scratch_folder, wait_for

pytestmark = pytest.mark.timeout(2 * INSTALL_S)

TOY = Path(__file__).parent / "toy"
#: Redis database of this module: tests with one of their own come there last.
REDIS_DB = 14
#: Modules that only workers and the web need.
HEAVY = ("httpx", "duckdb", "starlette", "uvicorn", "psutil", "periodiq", "jinja2")
#: Seconds for ``import actors`` on a machine that does other things too; the figure itself is printed.
IMPORT_S = 3.0
#: The oldest Python that we run on; releases of the floors' age know no newer one than 3.12.
OLDEST_PYTHON = "3.11"


class Place(Ledger):
    """A database and a Redis that the toy and Callboard share."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables
        with clean_environment(**variables):
            settings = load_settings(_env_file=None)
        super().__init__(make_engine(settings))
        self.redis_url = settings.redis_url_with_db

    def orders(self) -> dict[int, str]:
        """Id → item of the toy's own rows."""
        with self.engine.connect() as connection:
            return {row.id: row.item for row in connection.execute(text("SELECT id, item FROM orders"))}

    def in_redis(self, *ids: str) -> list[str]:
        """The keys in whose values one of these ids stands."""
        with redis_py.Redis.from_url(self.redis_url, decode_responses=True) as client:
            read: dict[str, Callable[[str], object]] = {
                "string": client.get,
                "list": lambda key: client.lrange(key, 0, -1),
                "hash": client.hgetall,
                "set": client.smembers,
                "zset": lambda key: client.zrange(key, 0, -1),
                "stream": client.xrange,
                "none": lambda _: "",
            }
            values = {key: repr(read[client.type(key)](key)) for key in client.scan_iter()}
        return [key for key, value in values.items() if any(each in value for each in ids)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Far from the tree."""
    with scratch_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    """Our wheel."""
    return build_wheel(folder / "dist")


@pytest.fixture(scope="module")
def toy(folder: Path) -> Path:
    """The toy's own folder."""
    return Path(shutil.copytree(TOY, folder / "toy", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def venv(folder: Path, wheel: Path) -> Venv:
    """The toy's environment: our base install and its own Alembic."""
    return Venv(folder / "venv", wheel, "alembic")


@pytest.fixture(scope="module")
def place(
    postgres_url: str,
    database_owner: tuple[str, str],
    template_database: str,
    redis_url: str,
    venv: Venv,
    toy: Path,
) -> Iterator[Place]:
    """A database with our tables, in which the toy has made its own."""
    with (
        redis_py.Redis.from_url(redis_url, db=REDIS_DB) as client,
        new_database(postgres_url, database_owner, template_database) as database_url,
    ):
        client.flushdb()
        place = Place({"DATABASE_URL": database_url, "REDIS_URL": with_database(redis_url, str(REDIS_DB))})
        done = venv.run("alembic", "upgrade", "head", cwd=toy, variables=place.variables)
        assert done.returncode == 0, done.stderr
        yield place
        place.engine.dispose()
        client.flushdb()


@pytest.fixture(scope="module")
def worker(place: Place, toy: Path, folder: Path) -> Iterator[None]:
    """A worker of ours that also has the toy's module: ``dramatiq actors toy_tasks``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CALLBOARD_", "DATABASE_", "REDIS_"))}
    ours = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{toy}",
        "CALLBOARD_ACTORS": "actors,toy_tasks",
        "CALLBOARD_SECRET_KEY": SECRET_KEY,
    }
    command = [sys.executable, "-m", "dramatiq", "actors", "toy_tasks", "-p", "1", "-t", "4"]
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=toy, env={**inherited, **place.variables, **ours}, stdout=output, stderr=output
        )

    def signed_in() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"the worker ended: {log.read_text()[-3000:]}")
        return bool(place.workers())

    try:
        wait_for(signed_in, 60, what="the worker signs in")
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def order(venv: Venv, toy: Path, place: Place, *how: str, code: int = 0) -> tuple[int, list[str]]:
    """Have the toy place an order; returns its id and its jobs' ids."""
    done = venv.run("python", "toy_service.py", *how, cwd=toy, variables=place.variables)
    assert done.returncode == code, done.stderr
    told = json.loads(done.stdout)
    return told["order"], told["jobs"]


# -- the wheel and its import ---------------------------------------------------------------------------------


def test_the_wheel_holds_actors_and_models_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {"actors", "models", names[-1].partition("/")[0]}
    here = {str(path.relative_to(ROOT)) for top in ("actors", "models") for path in (ROOT / top).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == here
    assert {"actors/py.typed", "models/py.typed"} <= set(names), "'Typing :: Typed' needs its marker (PEP 561)"


@contextmanager
def nobody_may_call() -> Iterator[int]:
    """A port that nobody may connect to while this lasts."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listener.accept()


IMPORT = f"""
import sys, time
begun = time.perf_counter()
import actors
took = time.perf_counter() - begun
assert not [name for name in {HEAVY} if name in sys.modules]
print(took)
"""


@pytest.mark.parametrize("configured", [True, False])
def test_importing_actors_connects_to_nothing(
    venv: Venv, tmp_path: Path, measured: Callable[[str], None], configured: bool
) -> None:
    took = []
    with nobody_may_call() as port:
        urls = {"DATABASE_URL": f"postgresql://127.0.0.1:{port}/x", "REDIS_URL": f"redis://127.0.0.1:{port}"}
        for _ in range(3):  # the first one compiles
            done = venv.run("python", "-c", IMPORT, cwd=tmp_path, variables=urls if configured else {})
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
            took.append(float(done.stdout))
    measured(f"import actors: {min(took):.2f} s, the first time {took[0]:.2f} s")
    assert min(took) < IMPORT_S


def test_missing_variables_are_named_at_first_use(venv: Venv, tmp_path: Path) -> None:
    code = "from actors import sleep; print('imported', flush=True); sleep.send(delay_ms=1)"
    done = venv.run("python", "-c", code, cwd=tmp_path, variables={})
    assert (done.returncode, done.stdout) == (1, "imported\n")
    last = done.stderr.strip().splitlines()[-1]
    assert "SettingsError" in last
    assert "DATABASE_URL is not set" in last
    assert "REDIS_URL is not set" in last


@pytest.mark.parametrize("name", ["models/__init__.py", "models.py"])
def test_a_services_own_models_are_named_as_what_is_in_the_way(venv: Venv, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("class Customer: ...\n")
    done = venv.run("python", "-c", "import actors", cwd=tmp_path, variables={})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert str(path) in last


# -- one database, two services -------------------------------------------------------------------------------


def our_alembic(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Alembic in our tree."""
    return subprocess.run(
        [Path(sys.executable).with_name("alembic"), *arguments],
        cwd=ROOT,
        env={"PATH": os.defpath, **place.variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def the_heads() -> list[str]:
    """The newest revisions of ours, one per branch."""
    return sorted(ScriptDirectory.from_config(alembic_config()).get_heads())


def check_histories(venv: Venv, toy: Path, place: Place) -> None:
    """Each service's Alembic sees its own history and tables, and no others."""
    theirs = venv.run("alembic", "current", cwd=toy, variables=place.variables)
    assert (theirs.returncode, theirs.stdout.split()) == (0, ["toy_1", "(head)"]), theirs.stderr
    ours = our_alembic(place, "current")
    assert (ours.returncode, sorted(ours.stdout.splitlines())) == (0, [f"{head} (head)" for head in the_heads()])
    for check in (venv.run("alembic", "check", cwd=toy, variables=place.variables), our_alembic(place, "check")):
        assert check.returncode == 0, check.stdout + check.stderr
        assert "No new upgrade operations detected" in check.stdout


def test_both_alembic_histories_live_side_by_side(venv: Venv, toy: Path, place: Place) -> None:
    check_histories(venv, toy, place)


def test_both_alembic_histories_live_side_by_side_in_the_embedded_database(venv: Venv, toy: Path, spine: Spine) -> None:
    place = Place({"DATABASE_URL": spine.told["database_url"], "REDIS_URL": spine.told["redis_url"]})
    try:
        done = venv.run("alembic", "upgrade", "head", cwd=toy, variables=place.variables)
        assert done.returncode == 0, done.stderr
        assert spine.value("SELECT to_regclass('public.orders')") is not None
        check_histories(venv, toy, place)
    finally:
        venv.run("alembic", "downgrade", "base", cwd=toy, variables=place.variables)
        place.engine.dispose()


@pytest.mark.parametrize("how", ["session", "psycopg"])
def test_a_rollback_leaves_nothing_anywhere(venv: Venv, toy: Path, place: Place, how: str) -> None:
    orders, jobs = place.orders(), len(place.jobs())
    number, ids = order(venv, toy, place, how, "tea", "rollback", code=3)
    assert number not in place.orders()
    assert place.orders() == orders
    assert len(place.jobs()) == jobs
    assert place.in_redis(*ids) == []


@pytest.mark.parametrize("how", ["session", "psycopg"])
def test_a_commit_makes_the_order_and_its_jobs(venv: Venv, toy: Path, place: Place, how: str) -> None:
    number, ids = order(venv, toy, place, how, "coffee", "commit")
    assert place.orders()[number] == "coffee"
    sleeps, packs = (place.job(each) for each in ids)
    assert (sleeps["actor"], sleeps["kwargs"], sleeps["tenant_id"]) == ("sleep", {"delay_ms": 1}, "default")
    assert (packs["actor"], packs["args"], packs["tenant_id"]) == ("pack_order", [number], "default")
    if how == "session":  # of a bare connection's commit nobody tells us; the relay rings
        wait_for(lambda: place.in_redis(*ids), what="the bell")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("how", ["session", "psycopg"])
def test_a_worker_runs_the_toys_plain_actor(venv: Venv, toy: Path, place: Place, how: str) -> None:
    number, ids = order(venv, toy, place, how, "cake", "commit")
    for each in ids:
        row = place.wait_for_status(each, "COMPLETED")
        assert (row["attempts"], row["errors"]) == (1, [])
    assert place.job(ids[1])["result"] == {"packed": "cake"}
    with place.engine.connect() as connection:
        assert connection.execute(text("SELECT packed FROM orders WHERE id = :id"), {"id": number}).scalar_one()


RESULTS = """
import sys
from actors import call_webhook, sleep
from toy_tasks import pack_order

print(sleep.send(delay_ms=1).get_result(block=True, timeout=20_000))
print(pack_order.send(int(sys.argv[1])).get_result(block=True, timeout=20_000))
print(call_webhook.send_with_options(kwargs={"url": "https://a.example/"}, delay=3_600_000).message_id)
"""


def send_and_get_results(venv: Venv, toy: Path, place: Place) -> None:
    """What a base install is for."""
    number, _ = order(venv, toy, place, "session", "juice", "commit")
    done = venv.run("python", "-W", "error", "-c", RESULTS, str(number), cwd=toy, variables=place.variables)
    assert done.returncode == 0, done.stderr
    slept, packed, later = done.stdout.splitlines()
    assert (slept, packed) == ("{'slept_ms': 1}", "{'packed': 'juice'}")
    assert place.job(later)["status"] == "PENDING"


@pytest.mark.usefixtures("worker")
def test_a_base_install_sends_and_gets_results(venv: Venv, toy: Path, place: Place) -> None:
    send_and_get_results(venv, toy, place)


@pytest.mark.usefixtures("worker")
def test_so_does_a_base_install_at_the_oldest_releases_we_name(
    wheel: Path, folder: Path, toy: Path, place: Place
) -> None:
    if UV is None:
        pytest.skip("only uv resolves to the oldest releases")
    find = [UV, "python", "find", "--no-python-downloads", OLDEST_PYTHON]
    if subprocess.run(find, capture_output=True, check=False).returncode:
        pytest.skip(f"no Python {OLDEST_PYTHON} here, and the oldest releases know no newer one")
    named: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = ("--resolution", "lowest-direct", "--no-build")
    venv = Venv(folder / "floors", wheel, *named, options=lowest, python=OLDEST_PYTHON)
    send_and_get_results(venv, toy, place)


STOCK = """
import os, sys
import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))


@dramatiq.actor
def pack_order(order_id): ...


@dramatiq.actor(actor_name="sleep")
def rest(delay_ms): ...


number = int(sys.argv[1])
print(pack_order.send(number).message_id)
print(pack_order.send_with_options(args=(number,), delay=300).message_id)
print(rest.send(delay_ms=1).message_id)
"""


@pytest.mark.usefixtures("worker")
def test_a_stock_producers_messages_are_run_and_recorded(venv: Venv, folder: Path, toy: Path, place: Place) -> None:
    stock = Venv(folder / "stock", "dramatiq[redis]")
    number, _ = order(venv, toy, place, "session", "bread", "commit")
    variables = {"REDIS_URL": place.variables["REDIS_URL"]}
    absent = stock.run("python", "-c", "import actors", cwd=folder, variables=variables)
    assert "No module named 'actors'" in absent.stderr
    done = stock.run("python", "-c", STOCK, str(number), cwd=folder, variables=variables)
    assert done.returncode == 0, done.stderr

    def recorded() -> list[dict[str, Any]]:
        rows = {str(row["id"]): row for row in place.jobs()}
        found = [rows.get(each) for each in done.stdout.split()]
        assert all(row is not None and row["status"] == "COMPLETED" for row in found), found
        return [row for row in found if row is not None]

    now, delayed, rested = wait_for(recorded, 20, what="three jobs recorded and done")
    for row in (now, delayed):
        assert (row["actor"], row["args"], row["result"]) == ("pack_order", [number], {"packed": "bread"})
    assert (rested["actor"], rested["kwargs"], rested["result"]) == ("sleep", {"delay_ms": 1}, {"slept_ms": 1})
    assert {(row["queue"], row["tenant_id"], row["attempts"]) for row in (now, delayed, rested)} == {
        ("default", "default", 1)
    }
    assert (delayed["started_at"] - now["created_at"]).total_seconds() > 0.2
    # Only the feed remembers them.
    wait_for(lambda: [key.partition(":")[0] for key in place.in_redis(*done.stdout.split())] == ["callboard"])
