"""What the ledger and the tables refuse; each docstring is its default message."""

from __future__ import annotations


class CallboardError(Exception):
    """Callboard could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class DataRefused(CallboardError):
    """The data cannot be kept: nothing was stored.

    Attributes:
      pointer: JSON pointer (RFC 6901) to the fault, "" for the whole value.
      reason: what is wrong there, without the pointer.
    """

    def __init__(self, reason: str, pointer: str = "") -> None:
        self.pointer = pointer
        self.reason = reason
        super().__init__(f"{reason} (at {pointer or 'the top level'}); nothing was stored")


class UnknownTenant(CallboardError):
    """There is no such tenant: nothing was stored."""


class UniqueKeyBusy(CallboardError):
    """Another transaction holds this unique key and did not end within 2 s: nothing was stored."""


class OptionRefused(CallboardError):
    """A send option is unknown or out of range: nothing was stored.

    Attributes:
      option: the option's name.
    """

    def __init__(self, option: str, reason: str) -> None:
        self.option = option
        self.reason = reason
        super().__init__(f"{option}: {reason}; nothing was stored")
