"""Is a port free, and if not, whose is it?"""

from __future__ import annotations

import socket

import psutil

from dev.console import Fault
from dev.servers import free_port


def holder(port: int) -> str:
    """Who listens on this port of this machine, as far as we may know."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS tells only root
        connections = []
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            if connection.pid is None:
                break
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                break
    return "another user's program"


def claim_port(port: int) -> int:
    """The port, if it is free; any free one for 0.

    Raises:
      Fault: it is taken; names the holder and the way out.
    """
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise Fault(f"this user may not listen on port {port}: use --port with a number above 1023") from None
        except OSError:
            raise Fault(
                f"port {port} is taken by {holder(port)}: stop it, or choose another with --port {free_port(port + 1)}"
            ) from None
    return port
