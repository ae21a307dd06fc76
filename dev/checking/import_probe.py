"""``python -m dev.checking.import_probe MODULE…``: imports them and prints one line of JSON, what failed and why."""

from __future__ import annotations

import importlib
import json
import sys


def main(modules: list[str]) -> None:
    """Import each; whatever they print or raise, the last line on standard output is ours."""
    answer, sys.stdout = sys.stdout, sys.stderr
    failed = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001 - a module may even exit
            failed[module] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    elsewhere = []
    if "actors" not in failed:
        from actors.runtime.recorder import actors_elsewhere
        from actors.runtime.sending import our_broker

        try:
            elsewhere = actors_elsewhere(our_broker())
        except Exception as error:  # noqa: BLE001 - a module may have put another broker in place of ours
            failed["actors"] = f"{type(error).__name__}: {error}"
    print(json.dumps({"failed": failed, "elsewhere": elsewhere}), file=answer, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
