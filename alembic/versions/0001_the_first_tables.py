"""the first tables

Revision ID: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "band",
            sa.SmallInteger(),
            sa.Computed("CASE WHEN priority < 0 THEN -1 WHEN priority > 0 THEN 1 ELSE 0 END", persisted=True),
            nullable=False,
        ),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("kwargs", sa.JSON(), nullable=False),
        sa.Column("options", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("message_timestamp", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=True),
        sa.Column("crashes", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("suspect", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("run_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("unique_key", sa.Text(), nullable=True),
        sa.Column("unique_slot", sa.Text(), nullable=True),
        sa.Column("unique_scope", sa.Text(), nullable=True),
        sa.Column("unique_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("attempt_token", sa.Uuid(), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dispatch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("offered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("result_error", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("errors", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("log", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status <> 'RUNNING' OR (attempt_token IS NOT NULL AND worker_id IS NOT NULL)", name=op.f("ck_jobs_lease")
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')", name=op.f("ck_jobs_status")
        ),
        sa.CheckConstraint("unique_scope IN ('live', 'waiting', 'period')", name=op.f("ck_jobs_unique_scope")),
        sa.CheckConstraint("priority BETWEEN -10 AND 10", name=op.f("ck_jobs_priority")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        schema="callboard",
    )
    op.create_index(
        "ix_jobs_finished",
        "jobs",
        ["status", "finished_at"],
        unique=False,
        schema="callboard",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_live",
        "jobs",
        ["tenant_id", "id"],
        unique=False,
        schema="callboard",
        postgresql_where=sa.text("status IN ('PENDING', 'RUNNING')"),
    )
    op.create_index(
        "ix_jobs_offered",
        "jobs",
        ["queue", "band", "offered_at"],
        unique=False,
        schema="callboard",
        postgresql_where=sa.text("status = 'PENDING' AND offered_at IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_running",
        "jobs",
        ["worker_id"],
        unique=False,
        schema="callboard",
        postgresql_where=sa.text("status = 'RUNNING'"),
    )
    op.create_index(
        "ix_jobs_suspect",
        "jobs",
        ["run_at"],
        unique=False,
        schema="callboard",
        postgresql_where=sa.text("status = 'PENDING' AND suspect"),
    )
    op.create_index("ix_jobs_tenant_id_id", "jobs", ["tenant_id", "id"], unique=False, schema="callboard")
    op.create_index(
        "ix_jobs_undispatched",
        "jobs",
        ["queue", "band", "run_at"],
        unique=False,
        schema="callboard",
        postgresql_where=sa.text("status = 'PENDING' AND offered_at IS NULL"),
    )
    op.create_index(
        "uq_jobs_unique_slot",
        "jobs",
        ["tenant_id", "unique_slot"],
        unique=True,
        schema="callboard",
        postgresql_where=sa.text("unique_slot IS NOT NULL"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=False),
        sa.Column("acquired_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
        schema="callboard",
    )
    op.create_table(
        "operators",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operators")),
        sa.UniqueConstraint("username", name=op.f("uq_operators_username")),
        schema="callboard",
    )
    tenants = op.create_table(
        "tenants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("char_length(id) BETWEEN 1 AND 100", name=op.f("ck_tenants_id_length")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        schema="callboard",
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("lock_key", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text(), server_default="worker", nullable=False),
        sa.Column("host_id", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("stopping_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dead_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("death", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        schema="callboard",
    )
    op.create_index(
        "ix_workers_alive",
        "workers",
        ["beat_at"],
        unique=False,
        schema="callboard",
        postgresql_where=sa.text("dead_at IS NULL"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["callboard.tenants.id"], name=op.f("fk_api_keys_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        schema="callboard",
    )
    op.create_index(op.f("ix_api_keys_tenant_id"), "api_keys", ["tenant_id"], unique=False, schema="callboard")
    op.create_table(
        "sign_in_links",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("operator_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["callboard.operators.id"], name=op.f("fk_sign_in_links_operator_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["callboard.tenants.id"], name=op.f("fk_sign_in_links_tenant_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sign_in_links")),
        schema="callboard",
    )
    op.create_table(
        "web_sessions",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("operator_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("csrf_token", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["callboard.operators.id"], name=op.f("fk_web_sessions_operator_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["callboard.tenants.id"], name=op.f("fk_web_sessions_tenant_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_web_sessions")),
        schema="callboard",
    )
    op.create_index("ix_web_sessions_expires_at", "web_sessions", ["expires_at"], unique=False, schema="callboard")
    # Pages filled less than whole keep the claim and the finish of a job on its page.
    op.execute(f'ALTER TABLE "{op.get_context().version_table_schema}".jobs SET (fillfactor = 85)')
    # What a bare .send() belongs to.
    op.execute(tenants.insert().values(id="default"))


def downgrade() -> None:
    op.drop_index("ix_web_sessions_expires_at", table_name="web_sessions", schema="callboard")
    op.drop_table("web_sessions", schema="callboard")
    op.drop_table("sign_in_links", schema="callboard")
    op.drop_index(op.f("ix_api_keys_tenant_id"), table_name="api_keys", schema="callboard")
    op.drop_table("api_keys", schema="callboard")
    op.drop_index(
        "ix_workers_alive", table_name="workers", schema="callboard", postgresql_where=sa.text("dead_at IS NULL")
    )
    op.drop_table("workers", schema="callboard")
    op.drop_table("tenants", schema="callboard")
    op.drop_table("operators", schema="callboard")
    op.drop_table("leases", schema="callboard")
    op.drop_index(
        "uq_jobs_unique_slot",
        table_name="jobs",
        schema="callboard",
        postgresql_where=sa.text("unique_slot IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_undispatched",
        table_name="jobs",
        schema="callboard",
        postgresql_where=sa.text("status = 'PENDING' AND offered_at IS NULL"),
    )
    op.drop_index("ix_jobs_tenant_id_id", table_name="jobs", schema="callboard")
    op.drop_index(
        "ix_jobs_suspect",
        table_name="jobs",
        schema="callboard",
        postgresql_where=sa.text("status = 'PENDING' AND suspect"),
    )
    op.drop_index(
        "ix_jobs_running", table_name="jobs", schema="callboard", postgresql_where=sa.text("status = 'RUNNING'")
    )
    op.drop_index(
        "ix_jobs_offered",
        table_name="jobs",
        schema="callboard",
        postgresql_where=sa.text("status = 'PENDING' AND offered_at IS NOT NULL"),
    )
    op.drop_index(
        "ix_jobs_live",
        table_name="jobs",
        schema="callboard",
        postgresql_where=sa.text("status IN ('PENDING', 'RUNNING')"),
    )
    op.drop_index(
        "ix_jobs_finished", table_name="jobs", schema="callboard", postgresql_where=sa.text("finished_at IS NOT NULL")
    )
    op.drop_table("jobs", schema="callboard")
