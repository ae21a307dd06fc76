"""The launcher on machines that lack something: one clear line each, no half-made environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dev.home import ROOT
from tests.support import wait_for

#: What the launcher may use besides Python.
TOOLS = ("sh", "dirname", "readlink", "cat", "cmp", "mkdir", "rm", "mv", "id", "sleep", "ps", "apt-get")

OLD_PYTHON = """#!/bin/sh
case "$2" in *print*) echo 3.9 ;; *) exit 1 ;; esac
"""
NO_ENSUREPIP = """#!/bin/sh
case "$2" in *print*) echo 3.12 ;; *ensurepip*) exit 1 ;; *) exit 0 ;; esac
"""
#: Makes an environment whose Python only says how it was called; as slow as the file ``slow`` says.
FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
    "-c "*print*) echo 3.12 ;;
    "-c "*) exit 0 ;;
    "-m venv")
        echo made >>"$LOG"
        while [ -e "$LOG.slow" ]; do sleep 0.05; done
        mkdir -p "$4/bin"
        printf '#!/bin/sh\\necho "$PYTHONPATH: $*"\\n' >"$4/bin/python"
        chmod +x "$4/bin/python" ;;
esac
"""


class Machine:
    """A folder with the launcher, and a PATH with little in it."""

    def __init__(self, folder: Path, python: str | None) -> None:
        self.root = folder / "clone"
        self.root.mkdir()
        for name in ("callboard", "requirements.txt"):
            shutil.copy(ROOT / name, self.root)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in (*TOOLS, "chmod"):
            if path := shutil.which(tool):
                (self.bin / tool).symlink_to(path)
        if python is not None:
            (self.bin / "python3").write_text(python)
            (self.bin / "python3").chmod(0o755)
        self.log = folder / "log"
        self.environment = {"PATH": str(self.bin), "LOG": str(self.log), "HOME": str(folder)}

    def start(self, *arguments: str, program: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [program or self.root / "callboard", *arguments],
            cwd="/",
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str, program: Path | None = None) -> tuple[int, str, list[str]]:
        process = self.start(*arguments, program=program)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output.strip(), errors.strip().splitlines()


def test_too_old_a_python_is_one_line(tmp_path: Path) -> None:
    code, _, errors = Machine(tmp_path, OLD_PYTHON).call("up")
    assert code == 1
    assert len(errors) == 1
    assert errors[0].startswith("callboard: needs Python 3.11 or newer (python3 is 3.9)")


def test_no_python_is_one_line(tmp_path: Path) -> None:
    code, _, errors = Machine(tmp_path, None).call("up")
    assert (code, len(errors)) == (1, 1)
    assert "none found" in errors[0]


def test_a_debian_python_without_ensurepip_is_one_line(tmp_path: Path) -> None:
    machine = Machine(tmp_path, NO_ENSUREPIP)
    code, _, errors = machine.call("up")
    assert (code, len(errors)) == (1, 1)
    assert "apt-get install python3-venv" in errors[0]
    assert not (machine.root / ".venv").exists()
    assert not (machine.root / ".venv.lock").exists()


def test_it_installs_once_and_again_when_requirements_change(tmp_path: Path) -> None:
    machine = Machine(tmp_path, FAKE_PYTHON)
    code, output, errors = machine.call("run", "--", "x")
    assert (code, output) == (0, f"{machine.root}: -m dev run -- x")
    assert errors[-1] == "callboard: installed"
    assert machine.call("up")[2] == []
    assert machine.log.read_text().split() == ["made"]
    with (machine.root / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    machine.call("up")
    assert machine.log.read_text().split() == ["made", "made"]


def test_it_is_found_through_links_and_from_anywhere(tmp_path: Path) -> None:
    machine = Machine(tmp_path, FAKE_PYTHON)
    (tmp_path / "links").mkdir()
    first, second = tmp_path / "links" / "one", tmp_path / "links" / "two"
    first.symlink_to("../clone/callboard")
    second.symlink_to(first)
    assert machine.call("up", program=second)[1] == f"{machine.root}: -m dev up"


def test_two_first_runs_do_not_collide(tmp_path: Path) -> None:
    machine = Machine(tmp_path, FAKE_PYTHON)
    slow = Path(f"{machine.log}.slow")
    slow.touch()
    processes = [machine.start("up") for _ in range(2)]
    wait_for(lambda: machine.log.exists() and machine.log.read_text(), 30)
    slow.unlink()
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert machine.log.read_text().split() == ["made"]
    assert sum("installed" in errors for _, errors in said) == 1


def test_a_lock_left_by_a_killed_install_is_taken_over(tmp_path: Path) -> None:
    machine = Machine(tmp_path, FAKE_PYTHON)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (machine.root / ".venv.lock").mkdir()
    (machine.root / ".venv.lock" / "pid").write_text(f"{gone.pid}\n")
    assert machine.call("up")[0] == 0


@pytest.mark.skipif(shutil.which("dash") is None, reason="no strict POSIX shell here")
def test_it_is_plain_posix_shell(tmp_path: Path) -> None:
    machine = Machine(tmp_path, FAKE_PYTHON)
    (machine.bin / "sh").unlink()
    (machine.bin / "sh").symlink_to(str(shutil.which("dash")))
    done = subprocess.run(
        [str(shutil.which("dash")), "-eu", machine.root / "callboard", "up"],
        env=machine.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
