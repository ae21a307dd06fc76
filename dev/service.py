"""Development services: what `up` runs in place of a server that the settings do not name, a mailbox for instance.

Every module of :mod:`dev.services` that has a ``SERVICE`` is one; deleting the module removes it. Importing one must
cost next to nothing: what it needs to run is imported when it runs.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dev.environment import Environment
from dev.home import Home
from dev.servers import free_port

#: Port by the name that the service gave it.
Ports = Mapping[str, int]


@dataclass(frozen=True)
class Service:
    """One stand-in; started as ``python -m dev.services.<name> PORT…`` with the children's environment.

    It is ready as soon as all its ports can be connected to, keeps files in ``.callboard/<name>/`` if it wants to, and
    has ``Home().secret(name)`` to itself.

    Attributes:
      name: its module's; also in the log, and in ``pids`` of up.json.
      setting: the variable in whose place it stands: with that given in the environment it is not started.
      ports: names of its ports on the loopback interface, in the order of its arguments; the numbers are remembered.
      variables: ports and secret → what the other children, and ``run``, find in their environment.
      up_json: ports → entries of up.json.
      label: first word of its line in the banner.
      banner: ports → the rest of that line.
    """

    name: str
    setting: str
    ports: tuple[str, ...]
    variables: Callable[[Ports, str], Mapping[str, str]]
    up_json: Callable[[Ports], Mapping[str, Any]]
    label: str
    banner: Callable[[Ports], str]


@dataclass(frozen=True)
class Engaged:
    """A service that this run needs, with its ports and the variables that it provides."""

    service: Service
    ports: Ports
    variables: Mapping[str, str]

    @property
    def banner(self) -> str:
        """Its line."""
        return f"  {self.service.label:<10} {self.service.banner(self.ports)}"


def services() -> Iterator[Service]:
    """All there are, in order of their modules' names."""
    from dev import services as package

    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        found = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "SERVICE", None)
        if isinstance(found, Service):
            yield found


def engage(home: Home, environment: Environment) -> list[Engaged]:
    """Choose what `up` has to run, and where: nothing in production, nothing that a setting makes superfluous."""
    if environment.production:
        return []
    return [_engage(home, environment, s) for s in services() if s.setting not in environment.variables]


def _engage(home: Home, environment: Environment, service: Service) -> Engaged:
    ports: dict[str, int] = {}
    for name in service.ports:
        key = f"{service.name} {name}"
        ports[name] = free_port(home.remembered_port(key))
        home.remember_port(key, ports[name])
    offered = service.variables(ports, home.secret(service.name))
    return Engaged(service, ports, {k: v for k, v in offered.items() if k not in environment.variables})


def provided(environment: Environment, published: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What a command beside a running `up` gets of its services.

    Args:
      published: the ``services`` of ``servers.json``, the variables of each service by its setting.
    """
    if environment.production:
        return {}
    wanted = (variables for setting, variables in published.items() if setting not in environment.variables)
    return {k: v for variables in wanted for k, v in variables.items() if k not in environment.variables}
