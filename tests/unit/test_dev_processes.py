"""Ports, watched folders, followed logs, environments: the parts of ``up`` that need no server."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from dev.console import Fault
from dev.environment import read_environment
from dev.home import ROOT, Home
from dev.logs import Follower
from dev.ports import claim_port
from dev.processes import MARK, end_all, marked, spawn
from dev.watch import affected, read_changes, source_folders


def test_a_busy_port_names_its_holder_and_the_way_out() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(Fault, match=rf"port {port} is taken by .*\(pid {os.getpid()}\).*--port \d+"):
            claim_port(port)
    assert claim_port(port) == port
    assert claim_port(0) > 0


def test_marked_processes_are_found_and_ended(tmp_path: Path) -> None:
    child = spawn(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={MARK: str(tmp_path)},
        cwd=tmp_path,
        log=tmp_path / "log",
    )
    assert [process.pid for process in marked(tmp_path)] == [child.pid]
    assert marked(tmp_path / "other") == []
    end_all(marked(tmp_path), grace_s=5)
    child.wait(5)
    assert marked(tmp_path) == []
    assert not psutil.pid_exists(child.pid)


def test_changes_reach_those_who_read_them() -> None:
    assert affected([ROOT / "web" / "static" / "board.css"]) == {"web"}
    assert affected([ROOT / "actors" / "sleep.py"]) == {"worker", "cron", "web"}
    assert affected([Path("/elsewhere/jobs.py")]) == {"worker", "cron", "web"}


def test_the_watchers_report_is_read() -> None:
    assert read_changes([b'["/a/b.py"]', b"Traceback", b'["/a/b.py", "/c.py"]']) == {Path("/a/b.py"), Path("/c.py")}


def test_modules_outside_the_tree_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_jobs.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    places = source_folders(["actors", "shop_jobs", "not.there"])
    assert tmp_path / "shop_jobs.py" in places
    assert ROOT / "models" in places


def test_logs_are_followed_by_whole_lines(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    log = tmp_path / "web.log"
    log.write_text("from last time\n")
    follower = Follower("web", log, 8)
    with log.open("a") as file:
        file.write("one\ntw")
        file.flush()
        follower.print_new()
        file.write("o\n")
        file.flush()
        follower.print_new()
    assert capfdbinary.readouterr().out == b"web      | one\nweb      | two\n"


def test_env_files_reach_children_and_the_process_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLBOARD_THREADS=1\nCALLBOARD_PROCESSES=1\nSHOP=env\nREDIS_URL=redis://h\n")
    (tmp_path / ".env.local").write_text("CALLBOARD_THREADS=2\nSHOP=local\n")
    read = read_environment(tmp_path, {"CALLBOARD_THREADS": "3", "DATABASE_URL": "", "PATH": "/bin"})
    assert read.embedded == {"DATABASE_URL"}
    assert {k: read.variables[k] for k in ("CALLBOARD_THREADS", "CALLBOARD_PROCESSES", "SHOP")} == {
        "CALLBOARD_THREADS": "3",
        "CALLBOARD_PROCESSES": "1",
        "SHOP": "local",
    }
    complete = read.with_servers(Home(tmp_path), {"DATABASE_URL": "postgresql://x"})
    assert complete["CALLBOARD_WEBHOOK_ALLOW_LOOPBACK"] == "1"
    assert len(complete["CALLBOARD_SECRET_KEY"]) >= 16
    assert complete["PYTHONPATH"] == str(tmp_path)
    assert complete["PATH"].endswith(":/bin")
    assert Path(complete["PATH"].split(":")[0], "python").exists()


def test_production_gets_nothing_for_free(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="needs DATABASE_URL and REDIS_URL"):
        read_environment(tmp_path, {"CALLBOARD_ENV": "production"})
    given = {"CALLBOARD_ENV": "production", "DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h"}
    complete = read_environment(tmp_path, given).with_servers(Home(tmp_path), {})
    assert "CALLBOARD_SECRET_KEY" not in complete
    assert "CALLBOARD_WEBHOOK_ALLOW_LOOPBACK" not in complete
