"""The web application with its first wall torn down: every statement of its engine loses its tenant condition.

Served by tests only. What still keeps tenants apart is row-level security; what is left of scoping in a statement is
written to the file that CALLBOARD_TEST_UNSCOPED names, one line each, and so is every statement that was changed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from starlette.applications import Starlette

#: ``callboard.jobs.tenant_id = %(tenant)s::VARCHAR``, ``… = callboard.a.tenant``, ``… BETWEEN a.tenant AND a.tenant``.
_VALUE = r"(?:%\(\w+\)s(?:::\w+)?|\w+(?:\.\w+)+)"
CONDITION = re.compile(
    rf"(?:\w+\.)*(?:tenant_id|tenants\.id) (?:= {_VALUE}|BETWEEN {_VALUE} AND {_VALUE}|IN \([^()]*\))"
    rf"|{_VALUE} = (?:\w+\.)*tenant_id\b"
)
#: What scopes a statement when it was not recognised above.
LEFT = re.compile(r"\btenant_id\s*(?:=|<|>|BETWEEN|IN\b|IS\b|LIKE)|(?:=|<|>)\s*(?:\w+\.)*tenant_id\b", re.IGNORECASE)
#: Not conditions on whose rows are seen: what the session's tenant becomes.
_ASSIGNMENT = re.compile(r"SET .*?\bWHERE\b", re.DOTALL)


def unscoped(statement: str) -> str:
    """A statement that sees every tenant's rows, were it not for the second wall."""
    return CONDITION.sub("true", statement)


def create_app() -> Starlette:
    """``uvicorn --factory tests.unscoped:create_app``."""
    from web.app import create_app as create_scoped

    record = Path(os.environ["CALLBOARD_TEST_UNSCOPED"])

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def tear_down(
        connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        # The other engine of this process is the senders', which has no second wall.
        if not connection.dialect.is_async:
            return statement, parameters
        changed = unscoped(statement)
        condition = _ASSIGNMENT.sub("", changed) if changed.startswith("UPDATE") else changed
        if changed != statement or LEFT.search(condition):
            with record.open("a") as lines:
                what = "left" if LEFT.search(condition) else "changed"
                lines.write(f"{what}: {' '.join(changed.split())}\n")
        return changed, parameters

    return create_scoped()
