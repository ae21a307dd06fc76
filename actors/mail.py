"""``email``: one mail to one address, handed over to the mail server of the settings."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any

import dramatiq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from actors.runtime import current_job, job_type
from models.mail import MAX_ADDRESS_BYTES, address_fault, is_one_line, mail_server, sender
from models.settings import Settings, get_settings


def _checked_address(address: str) -> str:
    if fault := address_fault(address):
        raise ValueError(f"must be one mail address: it {fault}")
    return address


def _checked_subject(subject: str) -> str:
    if not is_one_line(subject):
        raise ValueError("must be one line of text, without line breaks and control characters")
    return subject


# What address_fault and is_one_line say, as far as JSON Schema can say it.
_ADDRESS_SCHEMA: dict[str, Any] = {"format": "idn-email"}
_LINE_SCHEMA: dict[str, Any] = {"pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"}


class EmailPayload(BaseModel):
    """What ``POST /jobs`` takes as the payload of an ``email`` job."""

    model_config = ConfigDict(extra="forbid")

    to: Annotated[str, AfterValidator(_checked_address)] = Field(
        min_length=3,
        max_length=MAX_ADDRESS_BYTES,
        description="one mail address, without a name",
        examples=["somebody@example.com"],
        json_schema_extra=_ADDRESS_SCHEMA,
    )
    subject: Annotated[str, AfterValidator(_checked_subject)] = Field(
        min_length=1, max_length=200, description="one line of text", json_schema_extra=_LINE_SCHEMA
    )
    body: str | None = Field(None, description="the mail as plain text")
    html: str | None = Field(None, description="the mail as HTML; with body too, the reader's program chooses")


@job_type(EmailPayload)
@dramatiq.actor(actor_name="email", max_retries=2, time_limit=180_000)
def send_email(to: str, subject: str, body: str | None = None, html: str | None = None) -> dict[str, Any]:
    """Hand one mail over to the mail server.

    What the sender of the job has to change (a recipient or mail that the server refuses for good, 5xx) fails the job
    at once. What passes, or what the operator has to change (a setting, a password, a server that is down), is tried
    again. Three attempts are over within seconds: who sends to servers that put off unknown senders for minutes
    (greylisting) asks for more, ``max_attempts=12`` lasts for about an hour.

    Returns:
      ``message_id`` (made from the job's id, the same in every attempt), ``accepted`` (the address that the server
      took responsibility for), ``answer`` (the server's own words) and ``duration_ms``.
    """
    # Here, because few processes that import the actors send mail.
    from actors.runtime.mail_message import compose
    from actors.runtime.smtp import hand_over

    job = current_job()
    smtp_url, mail_from = mail_settings(get_settings())
    mail = compose(job.id, sender(mail_from), to, subject=subject, body=body, html=html, at=datetime.now(UTC))
    started = monotonic()
    answer = hand_over(mail_server(smtp_url), mail, check=job.check)
    return {
        "message_id": mail.message_id,
        "accepted": mail.to,
        "answer": answer,
        "duration_ms": round((monotonic() - started) * 1000),
    }


def mail_settings(settings: Settings) -> tuple[str, str]:
    """CALLBOARD_SMTP_URL and CALLBOARD_MAIL_FROM. Raises MailNotSent, which names what is missing."""
    from actors.runtime.smtp import MailNotSent

    if settings.smtp_url and settings.mail_from:
        return settings.smtp_url, settings.mail_from
    values = {"CALLBOARD_SMTP_URL": settings.smtp_url, "CALLBOARD_MAIL_FROM": settings.mail_from}
    missing = " and ".join(name for name, value in values.items() if not value)
    raise MailNotSent(f"this worker has no {missing}: set it and restart the workers")
