"""Passwords of operators: scrypt (RFC 7914), with salt and cost in the stored text, so that the cost can rise."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64decode, b64encode
from functools import cache
from hmac import compare_digest

#: Cost: 32 MiB and about 0.2 s per try on a small server (OWASP's password storage guide, 2023).
_N, _R, _P = 2**15, 8, 3
_LENGTH = 32


def hash_password(password: str) -> str:
    """``scrypt$n$r$p$salt$hash``, salt and hash in base64."""
    salt = secrets.token_bytes(16)
    made = _scrypt(password, salt, _N, _R, _P)
    return f"scrypt${_N}${_R}${_P}${b64encode(salt).decode()}${b64encode(made).decode()}"


def password_matches(password: str, stored: str | None) -> bool:
    """Whether this is the password; takes as long when nothing is stored (None), so that names cannot be guessed."""
    _, n, r, p, salt, expected = (stored or _nobody()).split("$")
    made = _scrypt(password, b64decode(salt), int(n), int(r), int(p))
    return compare_digest(made, b64decode(expected)) and stored is not None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # A password may hold anything a form can send; surrogates would not encode otherwise.
    raw = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(raw, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=_LENGTH)


@cache
def _nobody() -> str:
    return hash_password(secrets.token_hex(16))
