"""A mail server on 127.0.0.1 that answers as a test tells it and remembers what it got."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support import missing

#: Who may log in where a test wants a login.
USER, PASSWORD = "me@x", "hunter2:/@"


@dataclass(frozen=True)
class Got:
    """One mail that arrived, accepted or not."""

    sender: str
    to: str
    content: bytes
    encrypted: bool
    user: bytes | None
    mail_options: tuple[str, ...]

    @property
    def message(self) -> EmailMessage:
        """The mail, read."""
        message = message_from_bytes(self.content, policy=SMTP_POLICY)
        assert isinstance(message, EmailMessage)
        return message


@dataclass
class MailPlay:
    """The running server.

    Attributes:
      answers: by command (MAIL, RCPT, DATA): the answers of its next calls; afterwards it accepts.
    """

    port: int
    answers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    got: list[Got] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def url(self, scheme: str = "smtp", user: str = "", host: str = "127.0.0.1") -> str:
        """Its CALLBOARD_SMTP_URL."""
        return f"{scheme}://{user}{'@' if user else ''}{host}:{self.port}"

    def _next(self, command: str) -> str | None:
        return self.answers[command].pop(0) if self.answers[command] else None

    # -- the library's hooks

    async def handle_EHLO(  # noqa: N802
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.names.append(hostname)
        return responses

    async def handle_MAIL(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self._next("MAIL"):
            return answer
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if answer := self._next("RCPT"):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        [to] = envelope.rcpt_tos
        user = self.logins[-1][0] if session.authenticated else None
        options = tuple(envelope.mail_options)
        assert server.transport is not None
        encrypted = server.transport.get_extra_info("ssl_object") is not None
        self.got.append(Got(envelope.mail_from or "", to, envelope.content, encrypted, user, options))
        return self._next("DATA") or "250 2.0.0 Ok: queued as 4711"

    def allowed(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any) -> AuthResult:
        """Whether this user may log in."""
        assert isinstance(given, LoginPassword)
        self.logins.append((given.login, given.password))
        return AuthResult(success=(given.login, given.password) == (USER.encode(), PASSWORD.encode()), handled=False)


@contextmanager
def serving(
    *,
    implicit: ssl.SSLContext | None = None,
    starttls: ssl.SSLContext | None = None,
    login: bool = False,
    port: int = 0,
    **options: Any,
) -> Iterator[MailPlay]:
    """Run a server.

    Args:
      implicit: TLS from the first byte. starttls: offer STARTTLS. login: take mail only from who has logged in.
      port: where; 0 for any.
      options: the library's own.
    """
    # Both are about passwords without TLS, which is what some tests are about.
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    with socket.create_server(("127.0.0.1", port)) as listener:
        play = MailPlay(listener.getsockname()[1])
        loop = asyncio.new_event_loop()

        def connection() -> SMTP:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                given: dict[str, Any] = {"auth_required": login, "auth_require_tls": False, **options}
                return SMTP(
                    play, hostname="mail.test", loop=loop, tls_context=starttls, authenticator=play.allowed, **given
                )

        server = loop.run_until_complete(loop.create_server(connection, sock=listener, ssl=implicit))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield play
        finally:
            loop.call_soon_threadsafe(server.close)
            asyncio.run_coroutine_threadsafe(_end_connections(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _end_connections() -> None:
    """Let go of what clients that left early have left behind."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def talking(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """A server whose every connection is up to ``talk``, which ends when the event is set; gives its port."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def accept() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                connection.settimeout(5)
                with connection:
                    try:
                        talk(connection, over)
                    except OSError:
                        pass  # the client has left

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def certificate(folder: Path, *names: str) -> Path:
    """A self-signed certificate with its key in one file, made by the ``openssl`` command.

    Args:
      names: as OpenSSL has them, ``IP:127.0.0.1``.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("no openssl command: apt-get install openssl")
    both, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mail.test",
         "-addext", f"subjectAltName={','.join(names)}", "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
         "-keyout", key, "-out", both],
        check=True,
        capture_output=True,
    )  # fmt: skip
    both.write_text(both.read_text() + key.read_text())
    return both


def server_side(certificate: Path) -> ssl.SSLContext:
    """The context of a server with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context
