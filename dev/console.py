"""What the person at the terminal reads."""

from __future__ import annotations

import sys


class Fault(Exception):
    """Something that the person at the terminal can put right; its text is one clear line."""


def say(text: str) -> None:
    """One line of progress, on standard error: standard output belongs to the command that is run."""
    try:
        print(f"callboard: {text}", file=sys.stderr, flush=True)
    except OSError:
        pass  # the terminal is gone, which is no reason to leave processes behind
