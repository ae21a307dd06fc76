"""What children find in their environment: the process's own, then ``.env.local``, then ``.env``, then the servers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from dev.console import Fault
from dev.home import ROOT, Home
from models.settings import Settings, SettingsError, load_settings

#: Stands for an embedded server's address while settings are checked before anything is started.
_NOT_YET = {"DATABASE_URL": "postgresql://127.0.0.1/callboard", "REDIS_URL": "redis://127.0.0.1"}


@dataclass(frozen=True)
class Environment:
    """The variables of this folder.

    Attributes:
      variables: the whole environment of a child, without what embedded servers add.
      embedded: which of DATABASE_URL and REDIS_URL embedded servers shall provide.
    """

    variables: Mapping[str, str]
    embedded: frozenset[str]

    @property
    def production(self) -> bool:
        """Whether CALLBOARD_ENV says so."""
        return self.variables.get("CALLBOARD_ENV") == "production"

    def with_servers(self, home: Home, urls: Mapping[str, str]) -> dict[str, str]:
        """The environment of a child, with the addresses of running servers.

        In development the rest of what `up` promises is filled in: a secret key and webhooks to this machine.
        """
        variables = {**self.variables, **urls}
        if not self.production:
            variables.setdefault("CALLBOARD_SECRET_KEY", home.secret("secret_key"))
            variables.setdefault("CALLBOARD_WEBHOOK_ALLOW_LOOPBACK", "1")
        variables["PATH"] = os.pathsep.join([str(Path(sys.prefix) / "bin"), variables.get("PATH", os.defpath)])
        variables["PYTHONPATH"] = os.pathsep.join(
            dict.fromkeys([str(home.root), *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))])
        )
        return variables


def read_environment(root: Path = ROOT, process: Mapping[str, str] | None = None) -> Environment:
    """Merge the sources and check every setting before anything is started.

    Raises:
      Fault: settings are wrong, all named; or production without its servers.
    """
    merged: dict[str, str] = {}
    for source in (dotenv_values(root / ".env"), dotenv_values(root / ".env.local"), process or os.environ):
        merged.update({name: value for name, value in source.items() if value})
    embedded = frozenset(name for name in _NOT_YET if name not in merged)
    if embedded and merged.get("CALLBOARD_ENV") == "production":
        raise Fault(
            f"CALLBOARD_ENV=production needs {' and '.join(sorted(embedded))}: "
            "embedded servers are for development only"
        )
    environment = Environment(merged, embedded)
    check_settings({**merged, **{name: _NOT_YET[name] for name in embedded}})
    return environment


def check_settings(variables: Mapping[str, str]) -> Settings:
    """The settings that a child with these variables will read."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        return load_settings(_env_file=None)
    except SettingsError as error:
        raise Fault(str(error)) from error
    finally:
        os.environ.clear()
        os.environ.update(before)
