"""Problems: what each exception of the layers below becomes, and the shape of the document."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException

from actors.runtime.errors import DataRefused, OptionRefused, PayloadRefused, UniqueKeyBusy, UnknownTenant
from web.problems import Fault, Problem, problem_of


class Refusal(Exception):
    """What the driver raises."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("nothing listens")
        self.sqlstate = sqlstate


def test_the_document() -> None:
    faults = [Fault("/a~1b", "is wrong"), Fault("limit", "is too much", "parameter")]
    problem = Problem(422, "It is wrong.", slug="wrong", faults=faults, job_status="FAILED")
    assert problem.document() == {
        "type": "urn:callboard:problem:wrong",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "It is wrong.",
        "errors": [{"pointer": "/a~1b", "detail": "is wrong"}, {"parameter": "limit", "detail": "is too much"}],
        "job_status": "FAILED",
    }
    assert problem.response().headers["content-type"] == "application/problem+json"
    assert Problem(404, "No.").document()["type"] == "about:blank"


@pytest.mark.parametrize(
    ("error", "status", "pointer"),
    [
        (DataRefused("a NUL", "/payload/a"), 400, "/payload/a"),
        (DataRefused("a NUL", "/kwargs/a/0"), 400, "/payload/a/0"),
        (PayloadRefused("sleep", [("/delayMs", "is wrong")]), 422, "/payload/delayMs"),
        (OptionRefused("delay", "is wrong"), 422, "/options/delay"),
        (UniqueKeyBusy(), 409, None),
        (UnknownTenant(), 409, None),
        (HTTPException(404), 404, None),
        (HTTPException(405, headers={"Allow": "GET"}), 405, None),
        (OperationalError("", {}, Refusal(None)), 503, None),
        (OperationalError("", {}, Refusal("57P01")), 503, None),
        (OperationalError("", {}, Refusal("55P03")), 503, None),
    ],
)
def test_what_an_exception_becomes(error: Exception, status: int, pointer: str | None) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert problem.status == status
    assert [fault.where for fault in problem.faults] == ([pointer] if pointer else [])


@pytest.mark.parametrize("error", [ValueError("a bug"), DataError("", {}, Refusal("22P02"))])
def test_a_bug_is_no_problem_of_the_client(error: Exception) -> None:
    assert problem_of(error) is None
