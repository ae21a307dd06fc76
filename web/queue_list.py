"""``GET /queues``: how many jobs of the tenant each queue has, by what they wait for or how they ended."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.runtime.job_type import job_types
from models import queue_counts
from web.auth import require
from web.services import services


async def get_queues(request: Request) -> Response:
    """Every queue that a job type names or a job lies in, by name; the numbers are the ledger's, exactly."""
    caller = await require(request)
    async with services(request).tenant_connection(caller.tenant_id) as connection:
        found = await connection.execute(queue_counts.of_tenant(), {"tenant": caller.tenant_id})
        counted = {row.queue: [row._mapping[name] for name in queue_counts.COUNTS] for row in found}
    names = {kind.actor.queue_name for kind in job_types().values()} | counted.keys()
    nothing = [0] * len(queue_counts.COUNTS)
    queues = [
        {"name": name, **dict(zip(queue_counts.COUNTS, counted.get(name, nothing), strict=True))}
        for name in sorted(names)
    ]
    return JSONResponse({"queues": queues}, headers={"Cache-Control": "private, no-store"})
