"""A page of remedies as a program: entries with blocks that are run, each followed by what it must show."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

from dev.postgres import packaged_binaries
from tests.acceptance.pages import PATIENCE_S, DocumentedPage
from tests.acceptance.spine import Spine

P = ParamSpec("P")

_ENTRY = re.compile(r"^## (.+)$", re.MULTILINE)
_SHOWN = re.compile(r"<!-- run: (\S+) -->\n```sh\n.*?^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"<!-- run: (\S+) -->")


class Remedies(DocumentedPage):
    """One page of entries.

    Attributes:
      entries: heading of each → the names of its blocks.
      shown: block → the lines that it must print, ``…`` for anything.
      tested: the entries that a test has taken on.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        _, *parts = _ENTRY.split(self.text)
        self.entries = {title: _NAME.findall(body) for title, body in zip(parts[::2], parts[1::2], strict=True)}
        self.shown = {name: lines.splitlines() for name, lines in _SHOWN.findall(self.text)}
        self.tested: list[str] = []
        self._run: set[str] = set()

    def entry(self, *titles: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
        """Marks the test of these entries; it fails unless it runs all their blocks."""
        self.tested += titles

        def mark(test: Callable[P, None]) -> Callable[P, None]:
            @functools.wraps(test)
            def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
                self._run.clear()
                test(*args, **kwargs)
                assert [name for title in titles for name in self.entries[title] if name not in self._run] == []

            return wrapped

        return mark

    def look(self, name: str, spine: Spine, code: int = 0, **variables: str) -> str:
        """Run a block as an operator of a running ``up`` would, and compare with what the page says that it shows.

        Returns: what it printed, runs of blanks made one.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.runs[name]],
            cwd=spine.clone.folder,
            env=operator(spine, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self._run.add(name)
        assert done.returncode == code, (name, done.stdout)
        return self.compare(name, done.stdout)

    def compare(self, name: str, printed: str) -> str:
        """The same for a block that was run elsewhere."""
        self._run.add(name)
        printed = _blanks(printed)
        for line in self.shown[name]:
            pattern = ".*".join(re.escape(part) for part in _blanks(line).split("…"))
            assert re.search(pattern, printed), f"{name} does not show {line!r}:\n{printed}"
        return printed

    @contextmanager
    def started(self, name: str, spine: Spine) -> Iterator[subprocess.Popen[bytes]]:
        """A block that goes on until it is ended; its output lies in ``.callboard/logs`` under its name."""
        with (spine.clone.folder / ".callboard" / "logs" / f"worker-{name}.log").open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", f"exec {self.runs[name]}"],
                cwd=spine.clone.folder,
                env=operator(spine),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def operator(spine: Spine, **more: str) -> dict[str, str]:
    """The variables that the page wants; ``psql`` is there also where only the packaged one is."""
    told: dict[str, Any] = spine.told
    return spine.clone.environment(
        **{
            "DATABASE_URL": told["database_url"],
            "REDIS_URL": f"{told['redis_url']}/1",
            "URL": spine.url,
            "KEY": told["api_key"],
            "PATH": os.pathsep.join([os.environ["PATH"], str(packaged_binaries())]),
            **more,
        }
    )


def _blanks(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text)
