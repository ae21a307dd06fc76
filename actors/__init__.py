"""What the system does: one file per job type or family. Importing this installs Callboard's broker.

Nothing is connected and no setting is read here. Every module beside this one is imported, and every actor in it
can be imported from ``actors``: a new job type is a new file and nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import dramatiq

import models

if not getattr(models, "__callboard__", False):
    raise ImportError(
        f"Callboard's package 'models' is hidden by {getattr(models, '__file__', None) or list(models.__path__)}: "
        "rename that, or put Callboard before it on the import path"
    )

from actors.runtime.broker import CallboardBroker, make_broker
from actors.runtime.current import current_job
from actors.runtime.sending import asend_many, send_many

#: The process's broker, also Dramatiq's global one.
broker: CallboardBroker = make_broker()
dramatiq.set_broker(broker)

__all__ = ["asend_many", "broker", "current_job", "send_many"]


def _discover() -> None:
    """Import every module beside this one, and offer its actors here under their own names."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        if module.name == "runtime" or module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for name, value in vars(loaded).items():
            if isinstance(value, dramatiq.Actor) and value.fn.__module__ == loaded.__name__:
                globals()[name] = value
                __all__.append(name)
        for name in getattr(loaded, "__all__", ()):
            globals()[name] = getattr(loaded, name)
            __all__.append(name)


_discover()


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"there is no actor or function {name!r} in {__name__}; there are: {', '.join(sorted(__all__))}"
    )
