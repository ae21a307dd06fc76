"""Which database errors pass: the same statement may succeed a moment later."""

from __future__ import annotations

from sqlalchemy import exc

#: SQLSTATE classes and codes (Postgres, appendix A): connection, resources, operator intervention, system errors,
#: read-only (a standby during failover), lock time-out, deadlock, serialisation, idle-in-transaction cut.
_CLASSES = ("08", "53", "57", "58")
_CODES = frozenset({"25006", "55P03", "40P01", "40001", "25P03", "XX000"})


def is_passing(error: exc.DBAPIError) -> bool:
    """Whether repeating makes sense. An error without a code never reached the server, or lost it."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.InternalError))
    return state in _CODES or state[:2] in _CLASSES
