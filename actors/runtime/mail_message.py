"""One mail as it travels: addresses, head and parts, safe whatever a tenant wrote."""

from __future__ import annotations

import base64
import re
import textwrap
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime
from uuid import UUID

from actors.runtime.errors import PermanentError
from models.mail import Sender

#: Characters of a line of the head (RFC 5322 section 2.1.1), where words allow it.
LINE_CHARS = 78
#: Bytes of UTF-8 in one encoded word, so that it fits a line of 76 (RFC 2047 section 2) after the longest name here.
_WORD_BYTES = 39
#: Text that needs no encoding, and that no reader mistakes for encoded text.
_PLAIN = re.compile(r"(?!.*=\?)[!-~]+(?: [!-~]+)*")


@dataclass(frozen=True)
class Mail:
    """A mail that is ready to be handed over.

    Attributes:
      sender: address of the envelope; so is ``to``.
      message_id: with its angle brackets, made from the job's id.
      content: the whole message with CRLF line ends.
      needs_utf8: whether an address has letters beyond ASCII before its ``@``, which servers must allow (RFC 6531).
    """

    sender: str
    to: str
    message_id: str
    content: bytes
    needs_utf8: bool


class _Field(str):
    """A field of the head that is already what shall be sent.

    The library would decode encoded words that a tenant typed, and fold and encode anew; some releases of Python let
    line breaks through on that way (CVE-2024-6923).
    """

    name: str

    def fold(self, *, policy: EmailPolicy) -> str:
        """Called by the library."""
        return f"{self.name}: {self}\n".replace("\n", policy.linesep)


def _set(message: EmailMessage, name: str, value: str) -> None:
    field = _Field(value)
    field.name = name
    message[name] = field


def unstructured(text: str, name: str) -> str:
    """One line of text as the value of the field ``name``: as it is if that is safe, else in encoded words."""
    if _PLAIN.fullmatch(text):
        taken = " " * len(f"{name}: ")
        wrapper = textwrap.TextWrapper(
            LINE_CHARS, initial_indent=taken, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False
        )
        return wrapper.fill(text)[len(taken) :]
    return encoded_words(text)


def encoded_words(text: str) -> str:
    """Text in encoded words (RFC 2047), one a line, no character split between two."""
    words, chunk = [], b""
    for char in text:
        if len(chunk) + len(byte := char.encode()) > _WORD_BYTES:
            words.append(chunk)
            chunk = b""
        chunk += byte
    return "\n ".join(f"=?utf-8?b?{base64.b64encode(word).decode()}?=" for word in (*words, chunk))


def mailbox(name: str, address: str) -> str:
    """``"Name" <address>``, or the address alone."""
    if not name:
        return address
    if _PLAIN.fullmatch(name):
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}" <{address}>'
    return f"{encoded_words(name)}\n <{address}>"


def wire_address(address: str) -> str:
    """The address with its domain as the DNS knows it (``xn--…``).

    Raises:
      PermanentError: there can be no such domain.
    """
    local, _, domain = address.rpartition("@")
    if domain.isascii():
        return address
    import idna  # the httpx library's own; few addresses need it

    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError as error:
        raise PermanentError(f"there can be no domain {domain!r}: {error}") from None


def compose(
    job_id: UUID, sender: Sender, to: str, *, subject: str, body: str | None, html: str | None, at: datetime
) -> Mail:
    """Make the mail of a job; every attempt makes the same, but for its ``Date``.

    Args:
      to: one address. subject: one line. Both have been validated.
      body: plain text. html: a document. With both, readers choose; with neither the text is empty.
      at: when it is sent.

    Raises:
      PermanentError: there can be no such address.
    """
    sender_address, to = wire_address(sender.address), wire_address(to)
    message_id = f"<callboard.{job_id}@{sender_address.rpartition('@')[2]}>"
    needs_utf8 = not f"{sender_address}{to}".isascii()
    message = EmailMessage(SMTP.clone(cte_type="7bit", utf8=needs_utf8))
    _set(message, "From", mailbox(sender.name, sender_address))
    _set(message, "To", to)
    _set(message, "Subject", unstructured(subject, "Subject"))
    _set(message, "Date", format_datetime(at))
    _set(message, "Message-ID", message_id)
    _set(message, "Auto-Submitted", "auto-generated")  # RFC 3834: no absence notes, please
    if body or not html:
        message.set_content(body or "")
    if html:
        (message.add_alternative if body else message.set_content)(html, subtype="html")
    return Mail(sender_address, to, message_id, message.as_bytes(), needs_utf8)
