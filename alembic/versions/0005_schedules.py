"""schedules and their ticks

Revision ID: schedules
Revises: idempotency_keys
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "schedules"
down_revision = "idempotency_keys"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("module", sa.Text(), nullable=False),
        sa.Column("expression", sa.Text(), nullable=False),
        sa.Column("tz", sa.Text(), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("kwargs", sa.JSON(), nullable=False),
        sa.Column("options", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("at_most", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("last_tick_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_tick_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("declared_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("missed IN ('skip', 'once', 'all')", name=op.f("ck_schedules_missed")),
        sa.CheckConstraint("overlap IN ('allow', 'skip', 'queue')", name=op.f("ck_schedules_overlap")),
        sa.ForeignKeyConstraint(["tenant_id"], ["callboard.tenants.id"], name=op.f("fk_schedules_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "name", name=op.f("pk_schedules")),
        schema="callboard",
    )
    op.create_table(
        "ticks",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("tick_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("by_hand", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("outcome IN ('sent', 'waiting', 'skipped', 'refused')", name=op.f("ck_ticks_outcome")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "schedule"],
            ["callboard.schedules.tenant_id", "callboard.schedules.name"],
            name=op.f("fk_ticks_tenant_id_schedule"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "schedule", "tick_at", name=op.f("pk_ticks")),
        schema="callboard",
    )


def downgrade() -> None:
    op.drop_table("ticks", schema="callboard")
    op.drop_table("schedules", schema="callboard")
