"""The folder .callboard/: private files, secrets that stay, locks that end with their process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dev.home import ROOT, FileLock, Home, read_json, write_private


def test_secrets_are_made_once_and_only_ours_to_read(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.known_secret("api_key") is None
    first = home.secret("redis")
    assert len(first) >= 32
    home.keep_secret("api_key", "cb_x_y")
    assert Home(tmp_path).secret("redis") == first
    assert home.known_secret("api_key") == "cb_x_y"
    assert stat.S_IMODE((home.folder / "secrets.json").stat().st_mode) == 0o600
    assert not stat.S_IMODE(home.folder.stat().st_mode) & 0o066


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "up.json"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_counts_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    assert read_json(path) == {}
    path.write_text("[1]")
    assert read_json(path) == {}
    path.write_text("{")
    assert read_json(path) == {}


def test_ports_are_remembered(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.remembered_port("redis") is None
    home.remember_port("redis", 7)
    home.remember_port("postgres", 8)
    assert (home.remembered_port("redis"), home.remembered_port("postgres")) == (7, 8)


def test_a_lock_excludes_says_who_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path)
    assert lock.acquire()
    lock.sign(pid=os.getpid(), command="up")
    other = FileLock(path)
    assert not other.acquire()
    assert not other.acquire(shared=True)
    assert other.holder() == {"pid": os.getpid(), "command": "up"}
    lock.unlock()
    code = "import pathlib, sys, dev.home; assert dev.home.FileLock(pathlib.Path(sys.argv[1])).acquire()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=ROOT)
    assert other.acquire()
    lock.close()
    other.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    from dev.console import Fault

    os.chown(Home(tmp_path).folder, 65534, 65534)
    with pytest.raises(Fault, match="belongs to another user"):
        Home(tmp_path)
