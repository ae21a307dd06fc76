"""The tables, all in one schema of our own (``callboard`` unless CALLBOARD_DB_SCHEMA says otherwise).

The schema name here is a placeholder that engines translate (see :mod:`models.engine`), so that one process
can read its settings late. ``args``, ``kwargs`` and ``result`` are ``json``, not ``jsonb``: what was sent is
what runs, byte for byte (jsonb would turn 1e22 into an integer and drop -0.0); see ADR 0002.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from models.state import LIVE, Status

#: Replaced by the configured schema at execution (``schema_translate_map``).
SCHEMA = "callboard"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)

_now = func.now()


def _at(name: str, *, nullable: bool = True, default_now: bool = False) -> Column[object]:
    """An aware timestamp column, by the database's clock."""
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=_now if default_now else None)


tenants = Table(
    "tenants",
    metadata,
    Column("id", Text, primary_key=True),
    _at("created_at", nullable=False, default_now=True),
    CheckConstraint("char_length(id) BETWEEN 1 AND 100", name="id_length"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),  # Dramatiq's message_id
    # No foreign key: its row lock on the tenant would meet every enqueue; the insert joins ``tenants`` instead.
    Column("tenant_id", Text, nullable=False),
    Column("actor", Text, nullable=False),  # the wire ``type``
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),  # -10 ... 10, lower first
    # Which of the queue's three Redis lists: -1 urgent, 0 normal, 1 patient.
    Column(
        "band",
        SmallInteger,
        Computed("CASE WHEN priority < 0 THEN -1 WHEN priority > 0 THEN 1 ELSE 0 END", persisted=True),
        nullable=False,
    ),
    Column("args", JSON, nullable=False),
    Column("kwargs", JSON, nullable=False),
    Column("options", JSONB, nullable=False),  # Dramatiq's message options, ours left out
    Column("message_timestamp", BigInteger, nullable=False),  # ms since the epoch, as Dramatiq has it
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),  # started executions, also those that died
    Column("max_attempts", Integer),  # null: no cap
    Column("crashes", SmallInteger, nullable=False, server_default="0"),
    Column("suspect", Boolean, nullable=False, server_default="false"),  # next attempt runs in quarantine
    _at("run_at", nullable=False, default_now=True),  # not before
    Column("unique_key", Text),  # what the sender named; kept for the reader
    Column("unique_slot", Text),  # what is taken now; null when free
    Column("unique_scope", Text),  # live | waiting | period
    _at("unique_until"),  # expiry of a slot of scope ``period``
    Column("worker_id", Uuid),
    Column("attempt_token", Uuid),  # made by the claimer; kept after the end to recognise one's own success
    _at("deadline_at"),  # past this the rescuer takes the attempt back
    _at("cancel_requested_at"),
    Column("dispatch", Integer, nullable=False, server_default="0"),  # number of the latest offer to Redis
    _at("offered_at"),  # time of the latest offer; null: the relay offers when due
    Column("result", JSON),
    Column("result_error", Text),  # why a result could not be kept
    Column("error", Text),  # the latest error, one line
    Column("errors", JSONB, nullable=False, server_default="[]"),  # one entry per attempt that did not succeed
    Column("progress", JSONB),  # {"current", "total", "message"}
    Column("log", JSONB, nullable=False, server_default="[]"),  # the latest lines of current_job().log()
    Column("version", BigInteger, nullable=False, server_default="1"),  # +1 with every change that is shown
    _at("created_at", nullable=False, default_now=True),
    _at("started_at"),
    _at("finished_at"),
    _at("updated_at", nullable=False, default_now=True),
    CheckConstraint("status IN ({})".format(", ".join(f"'{s}'" for s in Status)), name="status"),
    CheckConstraint("priority BETWEEN -10 AND 10", name="priority"),
    CheckConstraint("unique_scope IN ('live', 'waiting', 'period')", name="unique_scope"),
    CheckConstraint("status <> 'RUNNING' OR (attempt_token IS NOT NULL AND worker_id IS NOT NULL)", name="lease"),
)

# Statuses are written out in these conditions, here and in every statement that filters by them: a plan made
# for a parameter could not know that it may use a partial index.
STATUS_CONDITIONS = {status: jobs.c.status == literal_column(f"'{status}'") for status in Status}
is_pending = STATUS_CONDITIONS[Status.PENDING]
is_running = STATUS_CONDITIONS[Status.RUNNING]
is_grouped = jobs.c.status != literal_column("'RUNNING'")
is_live = jobs.c.status.in_([literal_column(f"'{s}'") for s in sorted(LIVE)])

# What the relay offers next, per list and in order of run_at.
Index(
    "ix_jobs_undispatched",
    jobs.c.queue,
    jobs.c.band,
    jobs.c.run_at,
    postgresql_where=is_pending & jobs.c.offered_at.is_(None),
)
# What the sweep may have to offer again, oldest offer first.
Index(
    "ix_jobs_offered",
    jobs.c.queue,
    jobs.c.band,
    jobs.c.offered_at,
    postgresql_where=is_pending & jobs.c.offered_at.is_not(None),
)
# What the rescuer and the canceller look at.
Index("ix_jobs_running", jobs.c.worker_id, postgresql_where=is_running)
# What waits for quarantine.
Index("ix_jobs_suspect", jobs.c.run_at, postgresql_where=is_pending & jobs.c.suspect)
Index(
    "uq_jobs_unique_slot",
    jobs.c.tenant_id,
    jobs.c.unique_slot,
    unique=True,
    postgresql_where=jobs.c.unique_slot.is_not(None),
)
# A tenant's list under any filter, newest first, and its counts (models/newest.py, ADR 0012). What runs is not here:
# one entry at the insert and one at the end, none at the claim.
Index(
    "ix_jobs_groups",
    jobs.c.tenant_id,
    jobs.c.status,
    jobs.c.actor,
    jobs.c.queue,
    jobs.c.created_at,
    jobs.c.id,
    postgresql_where=is_grouped,
)
# A tenant's live jobs: the feed's snapshot.
Index("ix_jobs_live", jobs.c.tenant_id, jobs.c.id, postgresql_where=is_live)
# What the pruner may delete.
Index("ix_jobs_finished", jobs.c.status, jobs.c.finished_at, postgresql_where=jobs.c.finished_at.is_not(None))

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Second half of the advisory lock that says "this process lives".
    Column("lock_key", Integer, Identity(), nullable=False),
    Column("kind", Text, nullable=False, server_default="worker"),  # worker | quarantine
    Column("host_id", Text, nullable=False),  # same value = same kernel and process namespace
    Column("hostname", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("threads", Integer, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("version", Text, nullable=False),
    _at("started_at", nullable=False, default_now=True),
    _at("beat_at", nullable=False, default_now=True),
    _at("stopping_at"),  # asked to stop: what it leaves behind is released, not crashed
    _at("dead_at"),  # final
    Column("death", Text),  # stopped | crashed | lost
    Index("ix_workers_alive", "beat_at", postgresql_where=text("dead_at IS NULL")),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Uuid, nullable=False),
    _at("acquired_at", nullable=False, default_now=True),
    _at("expires_at", nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("tenant_id", Text, ForeignKey("tenants.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("module", Text, nullable=False),  # where it was declared: whoever has that knows when it is gone
    Column("expression", Text, nullable=False),  # five fields, or @daily and the like
    Column("tz", Text, nullable=False),  # IANA
    Column("args", JSON, nullable=False),
    Column("kwargs", JSON, nullable=False),
    Column("options", JSONB, nullable=False),  # of each message
    Column("missed", Text, nullable=False),  # skip | once | all
    Column("at_most", Integer, nullable=False),  # missed ticks that ``all`` makes up for
    Column("overlap", Text, nullable=False),  # allow | skip | queue
    _at("last_tick_at", nullable=False),  # everything up to this is decided
    _at("next_tick_at", nullable=False),
    _at("paused_at"),
    _at("declared_at", nullable=False, default_now=True),  # by the latest process that started
    _at("retired_at"),  # no longer declared
    CheckConstraint("missed IN ('skip', 'once', 'all')", name="missed"),
    CheckConstraint("overlap IN ('allow', 'skip', 'queue')", name="overlap"),
)

ticks = Table(
    "ticks",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("schedule", Text, nullable=False),
    _at("tick_at", nullable=False),  # the due minute; of a run by hand, when it was asked for
    Column("outcome", Text, nullable=False),  # sent | waiting (behind a live run) | skipped | refused
    Column("reason", Text),  # why it was not sent
    Column("job_id", Uuid),  # of what was sent; the row may be pruned
    Column("by_hand", Boolean, nullable=False, server_default="false"),
    _at("made_at", nullable=False, default_now=True),
    PrimaryKeyConstraint("tenant_id", "schedule", "tick_at"),
    ForeignKeyConstraint(["tenant_id", "schedule"], ["schedules.tenant_id", "schedules.name"], ondelete="CASCADE"),
    CheckConstraint("outcome IN ('sent', 'waiting', 'skipped', 'refused')", name="outcome"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),  # the public half of cb_<id>_<secret>
    Column("tenant_id", Text, ForeignKey("tenants.id"), nullable=False, index=True),
    Column("secret_hash", LargeBinary, nullable=False),  # SHA-256 of the 256-bit random secret
    Column("label", Text),
    _at("created_at", nullable=False, default_now=True),
    _at("last_used_at"),
    _at("revoked_at"),
)

operators = Table(
    "operators",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),  # scrypt, parameters inside
    _at("created_at", nullable=False, default_now=True),
)

sign_in_links = Table(
    "sign_in_links",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("operator_id", Uuid, ForeignKey("operators.id", ondelete="CASCADE"), nullable=False),
    Column("tenant_id", Text, ForeignKey("tenants.id"), nullable=False),
    _at("created_at", nullable=False, default_now=True),
    _at("expires_at", nullable=False),
    _at("used_at"),
)

# Tries to sign in with a password, per user name and per client address: a throttle that all web processes share.
sign_in_attempts = Table(
    "sign_in_attempts",
    metadata,
    Column("key", Text, primary_key=True),  # SHA-256 of what was tried: a name may be a mistyped password
    Column("tries", Integer, nullable=False),
    _at("began_at", nullable=False, default_now=True),
    Index("ix_sign_in_attempts_began_at", "began_at"),
)

web_sessions = Table(
    "web_sessions",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("operator_id", Uuid, ForeignKey("operators.id", ondelete="CASCADE"), nullable=False),
    Column("tenant_id", Text, ForeignKey("tenants.id"), nullable=False),
    Column("csrf_token", Text, nullable=False),
    _at("created_at", nullable=False, default_now=True),
    _at("expires_at", nullable=False),
    Index("ix_web_sessions_expires_at", "expires_at"),
)
