"""Pages of the documentation as programs: the blocks that a comment above declares, and how they are run."""

from __future__ import annotations

import re
import subprocess
from textwrap import dedent

from dev.home import ROOT
from tests.acceptance.clone import Clone

#: Seconds for one block.
PATIENCE_S = 60

_BLOCK = re.compile(r"^ *<!-- (run|script|file): (\S+) -->\n *```\w+\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LOOSE = re.compile(r"(?<!-->\n)^ *```(?:sh|js|python|sql|bash)$", re.MULTILINE)


class DocumentedPage:
    """One page below ``docs/``.

    Attributes:
      text: all of it.
      runs: its shell blocks by name.
      scripts: its browser scripts by name.
      files: files to be written, by path.
    """

    def __init__(self, path: str) -> None:
        self.text = (ROOT / "docs" / path).read_text(encoding="utf-8")
        found = [(kind, name, dedent(body)) for kind, name, body in _BLOCK.findall(self.text)]
        self.runs = {name: body for kind, name, body in found if kind == "run"}
        self.scripts = {name: body for kind, name, body in found if kind == "script"}
        self.files = {name: body for kind, name, body in found if kind == "file"}

    def loose(self) -> list[str]:
        """Blocks of code that nothing executes."""
        return _LOOSE.findall(self.text)

    def run(self, name: str, clone: Clone, **variables: str) -> str:
        """Execute a block in a copy of the tree, from its folder; returns what it printed, errors too."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.runs[name]],
            cwd=clone.folder,
            env=clone.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout
