"""Handing one mail over to a mail server (RFC 5321), and what its answers mean for the job."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from actors.runtime.errors import CallboardError, PermanentError
from actors.runtime.mail_message import Mail
from models.json_data import clean_text
from models.mail import MailServer, Protection

#: Seconds until there is a connection, until a command is answered, and until a whole mail is accepted. The last is
#: long, because a mail that is accepted after we have left is sent twice.
CONNECT_S, ANSWER_S, ACCEPT_S = 10.0, 30.0, 120.0
#: Seconds from the connection to the end, whatever the server does.
DEADLINE_S = 150.0
#: Characters of a server's answer that are kept.
ANSWER_CHARS = 300
#: Answers that are about our user and password, whenever they come (RFC 4954 section 6).
_ABOUT_US = frozenset({530, 534, 535, 538})


class MailNotSent(CallboardError):
    """The mail could not be handed over; the next attempt may succeed."""


def hand_over(
    server: MailServer,
    mail: Mail,
    *,
    check: Callable[[], None] = lambda: None,
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    connect_s: float = CONNECT_S,
    answer_s: float = ANSWER_S,
    accept_s: float = ACCEPT_S,
    deadline_s: float = DEADLINE_S,
) -> str:
    """Give the mail to the server, which is then responsible for it.

    Args:
      check: raises to give up; called before the mail is sent, never while the server is deciding about it.
      tls: makes the context that verifies the server's certificate.

    Returns:
      The server's last answer.

    Raises:
      PermanentError: the server refused this sender, recipient or mail for good (5xx).
      MailNotSent: anything else, also a refusal that concerns our credentials or encryption.
    """
    with _explained("cannot be reached"):
        connection = socket.create_connection((server.host, server.port), connect_s)
    with _ending(connection, deadline_s), closing(_Client(connection, server)) as client:
        _limit(client, answer_s)
        with _explained("did not take us on"):
            if server.protection is Protection.IMPLICIT:
                client.encrypt(tls())
            _greet(client)
            _protect(client, server, tls)
            _log_in(client, server)
        if mail.needs_utf8 and not client.has_extn("smtputf8"):
            raise PermanentError(f"the mail server cannot deliver to {mail.to}: it offers no SMTPUTF8")
        options = ["SMTPUTF8", "BODY=8BITMIME"] if mail.needs_utf8 else []
        if client.has_extn("size"):
            options.append(f"SIZE={len(mail.content)}")
        with _explained("broke off"):
            check()
            _expect("the sender", *client.mail(mail.sender, options))
            _expect("the recipient", *client.rcpt(mail.to))
            check()
            _limit(client, accept_s)
            try:
                code, answer = client.data(mail.content)
            except smtplib.SMTPDataError as error:
                code, answer = error.smtp_code, _bytes(error.smtp_error)
            said = _expect("the mail", code, answer)
        _leave(client)
        return said


class _Client(smtplib.SMTP):
    """The library's client on a connection that is there already; it owns the connection."""

    def __init__(self, connection: socket.socket, server: MailServer) -> None:
        super().__init__(local_hostname=_own_name(connection))
        self.sock = connection
        self._host = server.host  # starttls compares the certificate with it

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Speak TLS from here on."""
        assert self.sock is not None
        self.sock = context.wrap_socket(self.sock, server_hostname=self._host)


@contextmanager
def _ending(connection: socket.socket, deadline_s: float) -> Iterator[None]:
    """Cut the connection at the deadline.

    Time-outs are for one read each: a server that sends a byte now and then would hold this thread for ever, and
    Dramatiq's own limit does not reach into a read.
    """
    handle = connection.dup()  # the first is given up when TLS begins
    late = threading.Event()

    def cut() -> None:
        late.set()
        try:
            handle.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the server has left first

    timer = threading.Timer(deadline_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except MailNotSent as error:
        if late.is_set():
            raise MailNotSent(f"the mail server took longer than {deadline_s:g} s") from error
        raise
    finally:
        timer.cancel()
        timer.join()
        handle.close()


def _limit(client: smtplib.SMTP, seconds: float) -> None:
    assert client.sock is not None
    client.sock.settimeout(seconds)


def _greet(client: smtplib.SMTP) -> None:
    code, answer = client.getreply()
    if code != 220:
        raise smtplib.SMTPConnectError(code, answer)
    client.ehlo_or_helo_if_needed()


def _own_name(connection: socket.socket) -> str:
    """Our host's full name, or the address we come from (RFC 5321 section 4.1.3)."""
    name = socket.gethostname()
    if "." in name and name.isascii():
        return name
    address = str(connection.getsockname()[0])
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _protect(client: smtplib.SMTP, server: MailServer, tls: Callable[[], ssl.SSLContext]) -> None:
    required = server.protection is Protection.REQUIRED
    if required or (server.protection is Protection.OFFERED and client.has_extn("starttls")):
        code, answer = client.starttls(context=tls())
        if code != 220:
            raise smtplib.SMTPResponseException(code, answer)
        client.ehlo()
    elif server.protection is Protection.OFFERED and server.password is not None and not server.is_local:
        raise MailNotSent(
            "the mail server offers no STARTTLS, so the password was not sent; smtp+plain:// in CALLBOARD_SMTP_URL "
            "sends it unprotected"
        )


def _log_in(client: smtplib.SMTP, server: MailServer) -> None:
    if server.user is not None and server.password is not None:
        client.login(server.user, server.password)


def _leave(client: smtplib.SMTP) -> None:
    """Say goodbye: the mail is theirs, and whatever happens now is no failure."""
    try:
        _limit(client, 1.0)
        client.quit()
    except (smtplib.SMTPException, OSError):
        pass


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Whatever goes wrong here is about the server or our settings and not about this mail."""
    try:
        yield
    except smtplib.SMTPResponseException as error:
        detail = f"{error.smtp_code} {_text(_bytes(error.smtp_error))}"
        if isinstance(error, smtplib.SMTPAuthenticationError):
            what = "does not accept user and password"
    except (smtplib.SMTPException, OSError) as error:
        detail = clean_text(str(error), ANSWER_CHARS)
    else:
        return
    raise MailNotSent(f"the mail server of CALLBOARD_SMTP_URL {what}: {detail}")


def _expect(what: str, code: int, answer: bytes) -> str:
    """The server's answer if it says yes. Raises what a no means."""
    said = f"{code} {_text(answer)}"
    if 200 <= code < 300:
        return said
    if code in _ABOUT_US:
        raise MailNotSent(f"the mail server of CALLBOARD_SMTP_URL wants other credentials or encryption: {said}")
    if 500 <= code < 600:
        raise PermanentError(f"the mail server refused {what}: {said}")
    raise MailNotSent(f"the mail server did not accept {what} for now: {said}")


def _bytes(answer: bytes | str) -> bytes:
    return answer.encode() if isinstance(answer, str) else answer


def _text(answer: bytes) -> str:
    return clean_text(" ".join(answer.decode(errors="replace").split()), ANSWER_CHARS)
