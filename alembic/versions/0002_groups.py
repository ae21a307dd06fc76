"""jobs lie in groups of status, type and queue

Revision ID: groups
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "groups"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_jobs_groups",
        "jobs",
        ["tenant_id", "status", "actor", "queue", "created_at", "id"],
        unique=False,
        schema="callboard",
        postgresql_where=sa.text("status != 'RUNNING'"),
    )
    op.drop_index("ix_jobs_tenant_id_id", table_name="jobs", schema="callboard")


def downgrade() -> None:
    op.create_index("ix_jobs_tenant_id_id", "jobs", ["tenant_id", "id"], unique=False, schema="callboard")
    op.drop_index(
        "ix_jobs_groups", table_name="jobs", schema="callboard", postgresql_where=sa.text("status != 'RUNNING'")
    )
