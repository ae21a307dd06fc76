"""Clean environments outside of the tree, with uv where there is one, else with venv and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.home import ROOT
from tests.support import missing

UV = shutil.which("uv")
#: Seconds for one installation, on a slow network.
INSTALL_S = 240
#: What uv and pip say when there is no package index to be reached.
_NO_INDEX = ("Failed to fetch", "dns error", "name resolution", "NewConnectionError", "Connection refused")


def _call(*command: str | Path) -> None:
    """Run an installer; without a package index the test is skipped (and fails in continuous integration)."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    done = subprocess.run(
        [str(part) for part in command],
        cwd="/",
        env={name: value for name, value in os.environ.items() if name not in ours},
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    if done.returncode and any(words in done.stderr for words in _NO_INDEX):
        missing(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def build_wheel(folder: Path) -> Path:
    """Our wheel, built into ``folder``."""
    if UV is not None:
        _call(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    else:
        _call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    [wheel] = folder.glob("*.whl")
    return wheel


class Venv:
    """An environment with these requirements and nothing else.

    Args:
      options: more arguments of ``uv pip install``; they need uv.
      python: version for uv to find on this machine; the running one if None.
    """

    def __init__(
        self, folder: Path, *requirements: str | Path, options: Sequence[str] = (), python: str | None = None
    ) -> None:
        self.bin = folder / "bin"
        if UV is not None:
            _call(UV, "venv", "--quiet", "--no-python-downloads", "--python", python or sys.executable, folder)
            _call(UV, "pip", "install", "--quiet", "--python", self.bin / "python", *options, *requirements)
        else:
            assert not options
            _call(sys.executable, "-m", "venv", folder)
            _call(self.bin / "python", "-m", "pip", "install", "--quiet", "--no-input", *requirements)

    def run(
        self, program: str, *arguments: str | Path, cwd: Path, variables: Mapping[str, str], timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its programs with these variables and no others."""
        return subprocess.run(
            [str(part) for part in (self.bin / program, *arguments)],
            cwd=cwd,
            env={"PATH": f"{self.bin}:{os.defpath}", "HOME": str(cwd), **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
