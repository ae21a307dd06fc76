"""The header ``Retry-After``: how long a server asks to be left alone."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: Milliseconds that a Retry-After may put off the next attempt.
MAX_RETRY_AFTER_MS = 3_600_000


def retry_after_ms(value: str | None, now: datetime) -> int | None:
    """Milliseconds that a Retry-After header (RFC 9110 section 10.2.3) asks for: 0 to one hour, None if unreadable."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,12}", value):
        return min(int(value) * 1000, MAX_RETRY_AFTER_MS)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # "-0000": UTC, RFC 5322 section 3.3
            moment = moment.replace(tzinfo=UTC)
        ahead_ms = int((moment - now).total_seconds() * 1000)
    except (ValueError, OverflowError):
        return None
    return max(0, min(ahead_ms, MAX_RETRY_AFTER_MS))
