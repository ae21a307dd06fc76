"""What the mail settings may say, and what counts as a mail address."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, urlsplit

#: Octets of an address and of its local part (RFC 5321 section 4.5.3.1).
MAX_ADDRESS_BYTES, MAX_LOCAL_BYTES = 254, 64
#: Characters of a sender's name.
MAX_NAME_CHARS = 100

# Said by what they may not hold: a set that reaches to the last character takes milliseconds to compile.
_ATOM = re.compile(r'[^\x00-\x20()<>\[\]:;@\\,."\x7f]+')  # RFC 5322 section 3.2.3, RFC 6532
_LABEL = re.compile(r"(?!-)[^\x00-,./:-@\[-`{-\x7f]{1,63}(?<!-)")  # letters, digits and hyphens
_SENDER = re.compile(r"(?P<name>[^<>]*)<(?P<address>[^<>]*)>")


class Protection(StrEnum):
    """How a connection to a mail server is encrypted, by the scheme of CALLBOARD_SMTP_URL."""

    OFFERED = "smtp"  # STARTTLS when the server offers it
    REQUIRED = "smtp+starttls"  # STARTTLS, or no mail
    IMPLICIT = "smtps"  # from the first byte
    NONE = "smtp+plain"  # never


_PORTS = {Protection.OFFERED: 25, Protection.REQUIRED: 587, Protection.IMPLICIT: 465, Protection.NONE: 25}


@dataclass(frozen=True)
class MailServer:
    """Where mail is handed over, and as whom."""

    host: str
    port: int
    protection: Protection
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        """Whether what is sent there does not leave this machine."""
        return self.host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", self.host) is not None


def mail_server(url: str) -> MailServer:
    """Read CALLBOARD_SMTP_URL: ``scheme://[user:password@]host[:port]``, user and password percent-encoded.

    Raises:
      ValueError: it is none; the text holds nothing of the URL, which may hold a password.
    """
    parts = urlsplit(url)
    try:
        protection = Protection(parts.scheme)
    except ValueError:
        raise ValueError(f"must start with {', '.join(f'{p}://' for p in Protection)}") from None
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.path.strip("/") or parts.query or parts.fragment or not parts.hostname or port == 0:
        raise ValueError(
            f"must be {protection}://user:password@host:port, where / ? # @ : % inside user or password are written "
            "%2F %3F %23 %40 %3A %25"
        )
    user, password = (unquote(part) if part else None for part in (parts.username, parts.password))
    if (user is None) != (password is None):
        raise ValueError("must name both a user and a password, or neither")
    if not f"{user}{password}".isascii():
        raise ValueError("must name user and password in ASCII")
    return MailServer(parts.hostname, port or _PORTS[protection], protection, user, password)


@dataclass(frozen=True)
class Sender:
    """Who mail is from."""

    address: str
    name: str = ""


def sender(text: str) -> Sender:
    """Read CALLBOARD_MAIL_FROM: ``address`` or ``Name <address>``.

    Raises:
      ValueError: it is neither.
    """
    match = _SENDER.fullmatch(text.strip())
    name, address = (match["name"].strip(), match["address"].strip()) if match else ("", text.strip())
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    name = " ".join(name.split())
    if not is_one_line(name):
        raise ValueError("has a name with line breaks or control characters")
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(f"has a name longer than {MAX_NAME_CHARS} characters")
    if fault := address_fault(address):
        raise ValueError(f"must be an address, or Name <address>: {fault}")
    return Sender(address, name)


def is_one_line(text: str) -> bool:
    """Whether a text has no line break and no control character, and so can stand in a mail's head."""
    return not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def address_fault(address: str) -> str | None:
    """Say why a text is not exactly one mail address; None when it is.

    Refused although RFC 5321 knows them: quoted local parts and address literals (``user@[192.0.2.1]``). Letters beyond
    ASCII are allowed on both sides of the ``@`` (RFC 6531).
    """
    local, at, domain = address.rpartition("@")
    if not at:
        return "has no @"
    if any(char > "\x7f" and unicodedata.category(char)[0] in "CZ" for char in address):
        return "holds a space or control character"
    if not all(_ATOM.fullmatch(atom) for atom in local.split(".")):
        return "has something before the @ that is not allowed there"
    if not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        return "has no valid domain after the @"
    if any(char > "\x7f" and unicodedata.category(char)[0] not in "LMN" for char in domain):
        return "has no valid domain after the @"
    if _size(local) > MAX_LOCAL_BYTES or _size(address) > MAX_ADDRESS_BYTES:
        return f"is longer than {MAX_LOCAL_BYTES} bytes before the @, or than {MAX_ADDRESS_BYTES} in all"
    return None


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))
