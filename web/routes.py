"""Every address that the web process answers, in one list."""

from __future__ import annotations

from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Route

from web import batch, board
from web.domain import domains
from web.events import get_events, get_job_events
from web.health import get_healthz, get_readyz
from web.job_list import get_jobs
from web.job_type_list import get_job_types
from web.jobs import get_job, get_result, post_cancel, post_job, post_retry
from web.openapi import get_openapi
from web.sign_in import get_sign_in, post_sign_in, post_sign_out
from web.tickets import post_ticket


class Jobs(HTTPEndpoint):
    """``/jobs``; one endpoint, so that a 405 names every method that there is."""

    get = staticmethod(get_jobs)
    post = staticmethod(post_job)


class Batch(HTTPEndpoint):
    """``/jobs/batch``; an endpoint, so that other methods do not pass it by and look for a job named batch."""

    post = staticmethod(batch.post_batch)


class SignIn(HTTPEndpoint):
    """``/sign-in``."""

    get = staticmethod(get_sign_in)
    post = staticmethod(post_sign_in)


def routes() -> list[BaseRoute]:
    """The API (DESIGN section 9), signing in, and the board."""
    return [
        Route("/jobs", Jobs),
        Route(batch.PATH, Batch),
        Route("/jobs/{job_id}", get_job),
        Route("/jobs/{job_id}/result", get_result),
        Route("/jobs/{job_id}/cancel", post_cancel, methods=["POST"]),
        Route("/jobs/{job_id}/retry", post_retry, methods=["POST"]),
        Route("/jobs/{job_id}/events", get_job_events),
        Route("/events", get_events),
        Route("/events/tickets", post_ticket, methods=["POST"]),
        Route("/job-types", get_job_types),
        Route("/openapi.json", get_openapi),
        Route("/healthz", get_healthz),
        Route("/readyz", get_readyz),
        Route("/sign-in", SignIn),
        Route("/sign-out", post_sign_out, methods=["POST"]),
        *(route for domain in domains() for route in domain.routes),
        *board.routes,
    ]
