"""Which children have to be started anew when files change.

Watching needs threads, so it is a process of its own: ``up`` forks, and the kernel tells children of its end once
per thread.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from watchfiles import Change, DefaultFilter, watch

from dev.home import ROOT

_SUFFIXES = (".py", ".html", ".css", ".js")


class _Sources(DefaultFilter):
    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith(_SUFFIXES) and super().__call__(change, path)


def source_folders(modules: Iterable[str], root: Path = ROOT) -> list[Path]:
    """The folders (or single files) whose changes matter.

    Args:
      modules: those of CALLBOARD_ACTORS.
    """
    places = {root / name for name in ("actors", "models", "web")}
    for module in modules:
        try:
            spec = importlib.util.find_spec(module.split(":")[0].split(".")[0])
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin not in (None, "built-in", "frozen"):
            origin = Path(str(spec.origin))
            places.add(origin.parent if origin.name == "__init__.py" else origin)
    return sorted(place for place in places if place.exists())


def affected(changes: Iterable[Path], root: Path = ROOT) -> set[str]:
    """The kinds of children that have read one of these files."""
    kinds: set[str] = set()
    for path in changes:
        kinds |= {"web"} if path.is_relative_to(root / "web") else {"worker", "cron", "web"}
    return kinds


def main(modules: Iterable[str]) -> None:
    """Print every batch of changed files as one line of JSON, until killed; the first, empty, says that it watches."""
    told = False
    folders = source_folders(modules)
    for batch in watch(*folders, watch_filter=_Sources(), debounce=400, rust_timeout=50, yield_on_timeout=True):
        if told and not batch:
            continue
        told = True
        print(json.dumps(sorted({path for _, path in batch})), flush=True)


def read_changes(lines: Iterable[bytes]) -> set[Path]:
    """The files that such lines name; other lines are the watcher's own complaints."""
    return {Path(path) for line in lines if line.startswith(b"[") for path in json.loads(line)}


if __name__ == "__main__":
    main(sys.argv[1:])
