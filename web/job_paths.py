"""Job ids in addresses: what is no id, and what is another tenant's, is equally not there."""

from __future__ import annotations

import re
from uuid import UUID

from models.json_data import clean_text
from web.problems import Problem

#: The one spelling that the API gives out; braces, ``urn:uuid:`` and the like would be other addresses of the same job.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def parse_job_id(text: str) -> UUID:
    """The id in an address or a body. Raises Problem 404."""
    if not _UUID.fullmatch(text):
        raise job_not_found(text)
    return UUID(text)


def job_not_found(text: str) -> Problem:
    """404: unknown, deleted, or another tenant's; which of them is not told."""
    return Problem(404, f"There is no job {clean_text(text, 100)}.", slug="no-such-job")
