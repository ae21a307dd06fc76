"""Tickets: what was signed comes back, for a minute, and nothing else does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from web.problems import Problem
from web.tickets import TICKET_LASTS_S, Ticket, Tickets

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
TICKET = Ticket("t", "key:1", "a-job", None)


@pytest.mark.parametrize("ticket", [TICKET, Ticket("t", "key:1"), Ticket("t", "key:1", None, frozenset({"a", "b"}))])
def test_a_ticket_says_what_it_was_made_for(ticket: Ticket) -> None:
    tickets = Tickets("a" * 16)
    assert tickets.read(tickets.issue(ticket)) == ticket


def test_a_ticket_expires() -> None:
    tickets = Tickets("a" * 16)
    with time_machine.travel(NOW + timedelta(milliseconds=999), tick=False):
        text = tickets.issue(TICKET)
    with time_machine.travel(NOW + timedelta(seconds=TICKET_LASTS_S - 1), tick=False):
        assert tickets.read(text) == TICKET
    with time_machine.travel(NOW + timedelta(seconds=TICKET_LASTS_S), tick=False), pytest.raises(Problem) as refused:
        tickets.read(text)
    assert refused.value.status == 401
    assert "expired" in refused.value.detail


def test_only_our_own_tickets_are_read() -> None:
    tickets = Tickets("a" * 16)
    text = tickets.issue(TICKET)
    for wrong in (Tickets("b" * 16).issue(TICKET), text[:-1], "x" + text, "", "a.b.c", "\u00fc"):
        with pytest.raises(Problem):
            tickets.read(wrong)
