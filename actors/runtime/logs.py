"""Log lines: structlog events on standard logging, so that an adopter's handlers and levels decide.

An event is a dotted name (``job.claimed``, ``worker.dead``) with fields, never prose.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import structlog


#: As Dramatiq's command line writes lines.
FORMAT = "[%(asctime)s] [PID %(process)d] [%(threadName)s] [%(name)s] [%(levelname)s] %(message)s"


def show_info() -> None:
    """Let our lines of level INFO be seen in a process whose logging nobody has set up (uvicorn sets up its own)."""
    ours = logging.getLogger("callboard")
    if ours.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)


class _LazyLogger:
    """A logger that is built at its first line: a sender that logs nothing does not pay for importing structlog."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _logger(self) -> structlog.stdlib.BoundLogger:
        import structlog

        return cast(
            "structlog.stdlib.BoundLogger",
            structlog.wrap_logger(
                logging.getLogger(self._name),
                processors=[
                    structlog.stdlib.filter_by_level,
                    structlog.processors.format_exc_info,
                    structlog.processors.KeyValueRenderer(key_order=["event"]),
                ],
                wrapper_class=structlog.stdlib.BoundLogger,
            ),
        )

    def __getattr__(self, level: str) -> Any:
        return getattr(self._logger, level)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger ``callboard.<name>``; structlog's global configuration is left to the application."""
    return cast("structlog.stdlib.BoundLogger", _LazyLogger(f"callboard.{name}"))
