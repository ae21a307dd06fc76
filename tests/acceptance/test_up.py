"""``./callboard up`` from outside: a copy of the tree, real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dev.accounts import postgres_account
from dev.postgres import OUTSIDE
from models.engine import make_engine
from models.rls import Wall, second_wall
from models.settings import load_settings
from tests.acceptance.clone import Clone, Running, alive, modes
from tests.support import scratch_folder, wait_for

#: Several starts of everything in one test, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run something as another user")


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    """A copy that the tests of this file share."""
    with scratch_folder() as folder:
        yield Clone(folder / "clone")


@pytest.fixture(scope="module")
def running(clone: Clone) -> Iterator[Running]:
    """An ``up`` that the next few tests share."""
    with clone.up() as running:
        yield running


def status(url: str) -> int:
    """Status of a GET on this machine."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return int(response.status)


def test_it_gets_ready_and_tells_how_to_get_in(running: Running) -> None:
    told = running.clone.up_json
    assert status(f"{told['url']}/healthz") == 200
    assert status(f"{told['url']}/readyz") == 200
    wait_for(lambda: "In Python" in running.said(), what="the banner")
    text = running.said()
    assert told["url"] in text
    assert re.search(rf"{told['url']}/sign-in\?token=\S{{20,}}", text)
    assert f"curl {told['url']}/jobs -H 'Authorization: Bearer {told['api_key']}'" in text
    assert "./callboard run -- python -c" in text
    assert text.index("starting Postgres") < text.index("migrating") < text.index("Callboard is up")


def test_up_json_is_complete_and_private(running: Running) -> None:
    path = running.clone.folder / ".callboard" / "up.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = running.clone.up_json
    contract = {
        "url", "api_key", "operator_user", "operator_password", "database_url", "redis_url", "mailbox_url", "pids",
    }  # fmt: skip
    assert contract <= set(told)
    assert all(name.endswith("_url") for name in set(told) - contract), "what development services add are addresses"
    assert told["database_url"].startswith("postgresql://callboard:")
    assert told["redis_url"].startswith("redis://:")
    pids = told["pids"]
    assert {"up", "web", "worker", "worker-master", "postgres", "redis"} <= set(pids)
    assert len(pids["worker"]) == len(pids["worker-master"]) == 2
    assert [psutil.Process(pid).ppid() for pid in pids["worker"]] == pids["worker-master"]


def test_secrets_are_private(running: Running) -> None:
    folder = running.clone.folder / ".callboard"
    for name in ("secrets.json", "servers.json", "redis.conf"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    assert not stat.S_IMODE(folder.stat().st_mode) & 0o066


def test_a_second_up_names_the_first(running: Running) -> None:
    second = running.clone.call("up")
    told = running.clone.up_json
    assert second.returncode == 1
    assert second.stderr == f"callboard: already up in this folder: {told['url']} (pid {told['pids']['up'][0]})\n"


def test_run_uses_the_same_servers_in_the_callers_folder(running: Running) -> None:
    code = "import os; print(os.environ['DATABASE_URL'], os.environ['REDIS_URL'], os.getcwd())"
    done = running.clone.call("run", "--", "python", "-c", code)
    told = running.clone.up_json
    assert done.stdout.split() == [told["database_url"], told["redis_url"], "/"]
    assert running.clone.call("run", "--", "sh", "-c", "exit 7").returncode == 7


def test_keys_are_made_listed_and_revoked(running: Running) -> None:
    key = running.clone.call("keys", "create", "--tenant", "acme", "--label", "laptop").stdout.strip()
    assert re.fullmatch(r"cb_[^_]+_\S+", key)
    key_id = key.split("_")[1]
    assert re.search(rf"{key_id} .*acme .*laptop", running.clone.call("keys", "list").stdout)
    assert running.clone.call("keys", "revoke", key_id).returncode == 0
    again = running.clone.call("keys", "revoke", key_id)
    assert (again.returncode, again.stderr.strip()) == (1, f"callboard: there is no live key {key_id}")


def test_tenants_and_operators_are_made_by_command(running: Running) -> None:
    call = running.clone.call
    assert call("tenants", "create", "globex").stdout.strip() == "created globex"
    assert "already" in call("tenants", "create", "globex").stderr
    assert "globex" in call("tenants", "list").stdout
    assert "at least 12" in call("operators", "set", "olga", said="short\n").stderr
    assert call("operators", "set", "olga", said="correct horse battery\n").returncode == 0
    link = call("operators", "link", "olga", "--tenant", "globex").stdout.strip()
    assert link.startswith(running.clone.up_json["url"])
    with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(link) as board:
        assert "globex" in board.read().decode()
    assert "olga" in call("operators", "list").stdout
    assert call("operators", "remove", "olga").stdout.strip() == "removed olga"


def test_the_embedded_database_has_the_second_wall(running: Running) -> None:
    engine = make_engine(
        load_settings(_env_file=None, database_url=running.clone.up_json["database_url"], redis_url="redis://x")
    )
    with engine.connect() as connection:
        assert Wall(*connection.execute(second_wall("callboard")).one()).fault is None
    engine.dispose()


def test_a_killed_worker_is_started_again_and_said_so(running: Running) -> None:
    before = running.clone.up_json["pids"]["worker"]
    os.kill(before[0], signal.SIGKILL)

    def replaced() -> bool:
        now = running.clone.up_json["pids"]["worker"]
        return len(now) == 2 and before[0] not in now and before[1] in now

    wait_for(replaced, 30, what="two workers, one of them new")
    assert re.search(r"worker 1 ended \(.*\): starting it again in 0.25 s", running.said())


def test_a_killed_web_process_is_started_again(running: Running) -> None:
    told = running.clone.up_json
    os.kill(told["pids"]["web"][0], signal.SIGKILL)
    wait_for(lambda: running.clone.up_json["pids"].get("web") not in (None, told["pids"]["web"]), 30)
    wait_for(lambda: "web ended (killed by SIGKILL)" in running.said())

    def answers() -> bool:
        try:
            return status(f"{told['url']}/healthz") == 200
        except OSError:
            return False

    wait_for(answers, 30)


def test_killed_servers_are_started_again_with_their_data(running: Running) -> None:
    told = running.clone.up_json
    for name, said in (("postgres", "postgres ready"), ("redis", "redis ready")):
        os.kill(told["pids"][name][0], signal.SIGKILL)
        wait_for(lambda said=said: said in running.said(), 60)  # type: ignore[misc]
    now = running.clone.up_json
    assert (now["database_url"], now["redis_url"]) == (told["database_url"], told["redis_url"])
    assert now["pids"]["postgres"] != told["pids"]["postgres"]
    assert " default " in running.clone.call("keys", "list").stdout


def test_changed_code_is_loaded_and_broken_code_survived(running: Running) -> None:
    source = running.clone.folder / "actors" / "__init__.py"
    good = source.read_text()
    before = set(running.clone.up_json["pids"]["worker"])

    def workers() -> set[int]:
        return set(running.clone.up_json["pids"].get("worker", []))

    source.write_text(good + "\n# changed\n")
    wait_for(lambda: len(workers()) == 2 and not workers() & before, 60, what="two new workers")
    wait_for(lambda: "changed: reloading" in running.said())
    wait_for(lambda: running.said().count("web ready") >= 2, 30)
    now = workers()
    source.write_text(good + "\ndef (:\n")
    wait_for(lambda: re.search(r"worker \d ended \(", running.said().rpartition("reloading")[2]), 60)
    assert workers() & now, "one worker goes on with the old code"
    source.write_text(good)
    wait_for(lambda: len(workers()) == 2 and not workers() & now, 60, what="two new workers again")


def test_sigterm_leaves_no_process_and_keeps_the_data() -> None:
    with scratch_folder() as folder:
        clone = Clone(folder / "clone")
        with clone.up() as first:
            told = clone.up_json
            clone.call("keys", "create", "--tenant", "kept")
            family = first.family()
            assert len(family) > 6
            assert first.stop() == 0
            assert alive(family) == []
            assert not (clone.folder / ".callboard" / "up.json").exists()
            said = first.said()
            order = [
                said.index(f"stopping {what}") for what in ("cron", "web", "worker", "the servers") if what != "cron"
            ]
            assert order == sorted(order)
        with clone.up() as second:
            again = clone.up_json
            for name in ("api_key", "operator_password", "database_url", "redis_url"):
                assert again[name] == told[name]
            assert " kept " in clone.call("keys", "list").stdout
            family = second.family()
            second.process.kill()
            second.process.wait()
            # Linux tells the children; elsewhere the next start does.
            if os.uname().sysname == "Linux":
                wait_for(lambda: alive(family) == [], 60, what="everything ended after kill -9 of up")
        with clone.up():
            assert " kept " in clone.call("keys", "list").stdout


def test_ctrl_c_while_booting_leaves_no_process(clone: Clone) -> None:
    with scratch_folder() as folder:
        fresh = Clone(folder / "clone")
        output = folder / "out"
        process = fresh.start("up", "--port", "0", output=output)
        wait_for(lambda: output.exists() and "starting Postgres" in output.read_text(), 60)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        wait_for(lambda: alive(family) == [], 10)


@ROOT_ONLY
def test_as_root_in_a_private_folder_no_mode_changes() -> None:
    with scratch_folder(0o700) as folder:
        clone = Clone(folder / "with space, ümlaut", own_environment=True)
        link = clone.folder / ".callboard" / "postgres"
        before = modes(clone.folder)
        try:
            with clone.up():
                assert link.is_symlink()
                assert link.resolve().is_relative_to(OUTSIDE)
            assert modes(clone.folder) == before
        finally:
            if link.is_symlink():
                shutil.rmtree(link.resolve().parent)


@ROOT_ONLY
def test_as_an_ordinary_user() -> None:
    with scratch_folder() as folder:
        clone = Clone(folder / "clone", postgres_account())
        folder.chmod(0o777)  # the output file lies beside the clone
        before = modes(clone.folder)
        with clone.up() as running:
            assert {p.uids().effective for p in running.family()} == {clone.folder.stat().st_uid}
            assert stat.S_IMODE((clone.folder / ".callboard").stat().st_mode) == 0o700
            assert running.stop(signal.SIGINT) == 0
        assert modes(clone.folder) == before


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The only line of a refusal."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return lines[-1]


@pytest.fixture(scope="module")
def idle() -> Iterator[Clone]:
    """A copy in which nothing runs."""
    with scratch_folder() as folder:
        yield Clone(folder / "clone")


def test_a_busy_port_names_its_holder(idle: Clone) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        line = one_line(idle.call("up", "--port", str(port)))
    assert f"port {port} is taken by" in line
    assert f"(pid {os.getpid()})" in line
    assert "--port" in line


def test_wrong_settings_are_all_named(idle: Clone) -> None:
    line = one_line(idle.call("up", CALLBOARD_THREADS="many", CALLBOARD_LEASE_S="0", DATABASE_URL="mysql://x"))
    for name in ("CALLBOARD_THREADS", "CALLBOARD_LEASE_S", "DATABASE_URL"):
        assert name in line


def test_production_refuses_embedded_servers(idle: Clone) -> None:
    line = one_line(idle.call("up", CALLBOARD_ENV="production"))
    assert "CALLBOARD_ENV=production needs DATABASE_URL and REDIS_URL" in line


def test_damaged_data_is_one_clear_line_and_kept(idle: Clone) -> None:
    assert idle.call("run", "--", "true").returncode == 0
    data = (idle.folder / ".callboard" / "postgres").resolve()
    control = data / "global" / "pg_control"
    good = control.read_bytes()
    control.write_bytes(b"\0" * len(good))
    line = one_line(idle.call("up", "--port", "0"))
    assert str(data) in line
    assert f"mv {data} {data}.damaged" in line
    assert "postgres.log" in line
    control.write_bytes(good)
    version = data / "PG_VERSION"
    version.write_text("9\n")
    assert "PG_VERSION says 9" in one_line(idle.call("up", "--port", "0"))
    version.write_text("18\n")
    assert idle.call("run", "--", "true").returncode == 0


def test_run_boots_servers_for_its_own_duration(idle: Clone) -> None:
    done = idle.call("run", "--", "python", "-c", "import os, redis; redis.from_url(os.environ['REDIS_URL']).ping()")
    assert done.returncode == 0, done.stderr
    assert not (idle.folder / ".callboard" / "servers.json").exists()
    assert idle.call("run", "--", "no-such-program").returncode == 127


def test_two_runs_share_the_servers(idle: Clone, tmp_path: Path) -> None:
    go, output = tmp_path / "go", tmp_path / "out"
    tmp_path.chmod(0o777)
    waits = f"while [ ! -e {go} ]; do sleep 0.05; done"
    first = idle.start("run", "--", "sh", "-c", waits, output=output)
    wait_for((idle.folder / ".callboard" / "servers.json").exists, 60)
    second = idle.call("run", "--", "sh", "-c", f"touch {go}; psql --version >/dev/null 2>&1; echo $DATABASE_URL")
    assert second.stdout.startswith("postgresql://")
    assert "starting" not in second.stderr
    assert first.wait(60) == 0


def test_run_passes_signals_on(idle: Clone, tmp_path: Path) -> None:
    output = tmp_path / "out"
    script = "trap 'echo got TERM; exit 9' TERM; echo begun; while :; do sleep 0.05; done"
    process = idle.start("run", "--", "sh", "-c", script, output=output)
    wait_for(lambda: output.exists() and "begun" in output.read_text(), 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 9
    assert "got TERM" in output.read_text()
