"""The mailbox's mail server: takes mail for everybody from whoever knows the password."""

from __future__ import annotations

import asyncio
import hmac
import logging
import warnings

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from dev.services.mailbox.letter import read
from dev.services.mailbox.store import Store

#: Bytes of one mail: the largest job (1 MiB), its text in the longest encoding and twice over, fits.
MAX_MAIL_BYTES = 16_000_000


class Reception:
    """What happens to a mail (the library's handler)."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the mail and tell who has got what."""
        del server, session
        assert isinstance(envelope.content, bytes)
        try:
            stored = self.store.keep(envelope.mail_from or "", envelope.rcpt_tos, envelope.content)
        except OSError as error:
            print(f"a mail could not be kept: {error}", flush=True)
            return "452 4.3.1 the mail could not be kept"
        letter = read(stored)
        print(printable(f"mail for {letter.to}: {letter.subject}"), flush=True)
        return f"250 2.0.0 kept as {stored.id}"


def printable(text: str) -> str:
    """A text that can do nothing to a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


async def listen(store: Store, port: int, user: str, password: str) -> asyncio.Server:
    """Take mail on this port of the loopback interface."""

    def allowed(_server: object, _session: object, _envelope: object, _mechanism: object, given: object) -> AuthResult:
        known = (
            isinstance(given, LoginPassword)
            and hmac.compare_digest(given.login, user.encode())
            and hmac.compare_digest(given.password, password.encode())
        )
        return AuthResult(success=known, handled=False)

    def connection() -> SMTP:
        return SMTP(
            Reception(store),
            hostname="localhost",  # its own look-up may take seconds
            ident="Callboard's mailbox",
            data_size_limit=MAX_MAIL_BYTES,
            enable_SMTPUTF8=True,
            authenticator=allowed,
            auth_required=True,
            auth_require_tls=False,
            loop=asyncio.get_running_loop(),
        )

    # The library warns at every connection of passwords without TLS; they do not leave this machine.
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS", UserWarning)
    return await asyncio.get_running_loop().create_server(connection, "127.0.0.1", port)
