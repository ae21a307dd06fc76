"""Ids that we make: UUIDv7 (RFC 9562), whose order in time keeps the ledger's indexes small."""

from __future__ import annotations

from uuid import UUID

import uuid_utils


def new_id() -> UUID:
    """A new id."""
    return UUID(bytes=uuid_utils.uuid7().bytes)
