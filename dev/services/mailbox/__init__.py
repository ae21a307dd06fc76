"""A mailbox for development: takes all mail that `email` jobs send and shows it, and none of it leaves this machine.

Whoever may connect to this machine's loopback interface may read it.
"""

from __future__ import annotations

from dev.service import Service

#: User of the mailbox's SMTP; the password is the service's secret.
USER = "callboard"

SERVICE = Service(
    name="mailbox",
    setting="CALLBOARD_SMTP_URL",
    ports=("smtp", "page"),
    variables=lambda ports, secret: {
        "CALLBOARD_SMTP_URL": f"smtp://{USER}:{secret}@127.0.0.1:{ports['smtp']}",
        "CALLBOARD_MAIL_FROM": "Callboard <callboard@localhost>",
    },
    up_json=lambda ports: {"mailbox_url": f"http://127.0.0.1:{ports['page']}"},
    label="Mailbox",
    banner=lambda ports: f"http://127.0.0.1:{ports['page']}   (all mail of email jobs; as JSON: /api/messages)",
)
