"""What is in a mail, for people; a mail may be anything, and is shown as far as it can be read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import lru_cache
from typing import Any

from dev.services.mailbox.store import MAX_MAILS, Stored

#: Characters of the text that the list shows.
PREVIEW_CHARS = 140


@dataclass(frozen=True)
class Letter:
    """One mail, read.

    Attributes:
      to: for whom the server took it, which is what counts; ``head`` says what the mail says of itself.
      head: name and value of every field, decoded.
      text, html: the two forms of the content, if it has them.
      attachments: (file name, type, bytes) of everything else.
    """

    id: str
    received_at: datetime
    sender: str
    to: str
    subject: str
    message_id: str
    head: tuple[tuple[str, str], ...]
    text: str | None
    html: str | None
    attachments: tuple[tuple[str, str, int], ...]
    size: int

    @property
    def preview(self) -> str:
        """The beginning of the text in one line."""
        return " ".join((self.text or "").split())[:PREVIEW_CHARS]

    def summary(self) -> dict[str, Any]:
        """What the list in JSON says."""
        return {
            "id": self.id,
            "received_at": self.received_at.isoformat().replace("+00:00", "Z"),
            "from": self.sender,
            "to": self.to,
            "subject": self.subject,
            "message_id": self.message_id,
            "text": self.text,
            "html": self.html,
            "size": self.size,
        }

    def details(self) -> dict[str, Any]:
        """The summary and the rest."""
        attachments = [{"name": name, "type": kind, "size": size} for name, kind, size in self.attachments]
        return {**self.summary(), "head": [list(field) for field in self.head], "attachments": attachments}


@lru_cache(MAX_MAILS)
def read(stored: Stored) -> Letter:
    """Read a mail."""
    message = message_from_bytes(stored.source, policy=policy.default)
    assert isinstance(message, EmailMessage)
    head = tuple((name, _field(value)) for name, value in _fields(message))
    said: dict[str, str] = {}
    for name, value in head:
        said.setdefault(name.lower(), value)
    texts: list[str] = []
    pages: list[str] = []
    attachments: list[tuple[str, str, int]] = []
    for part in message.walk():
        kind = part.get_content_type()
        if part.is_multipart():
            continue
        if part.get_content_disposition() != "attachment" and kind in ("text/plain", "text/html"):
            (texts if kind == "text/plain" else pages).append(_content(part))
        else:
            attachments.append((part.get_filename() or "(no name)", kind, len(_payload(part))))
    return Letter(
        id=stored.id,
        received_at=stored.received_at,
        sender=said.get("from", said.get("return-path", "")),
        to=", ".join(value for name, value in head if name.lower() == "delivered-to"),
        subject=said.get("subject", ""),
        message_id=said.get("message-id", ""),
        head=head,
        text="\n".join(texts) if texts else None,
        html="\n".join(pages) if pages else None,
        attachments=tuple(attachments),
        size=len(stored.source),
    )


def _fields(message: EmailMessage) -> list[tuple[str, Any]]:
    try:
        return list(message.items())
    except Exception:  # noqa: BLE001 - the library's parsers trip over some heads
        return list(message.raw_items())


def _field(value: Any) -> str:
    return str(value).encode(errors="replace").decode()


def _content(part: Any) -> str:
    try:
        return str(part.get_content()).replace("\r\n", "\n")
    except Exception:  # noqa: BLE001 - an unknown character set, a broken encoding
        return _payload(part).decode(errors="replace")


def _payload(part: Any) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""
