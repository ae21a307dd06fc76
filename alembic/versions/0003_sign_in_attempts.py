"""tries to sign in, counted for all web processes

Revision ID: sign_in_attempts
Revises: groups
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "sign_in_attempts"
down_revision = "groups"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sign_in_attempts",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_sign_in_attempts")),
        schema="callboard",
    )
    op.create_index("ix_sign_in_attempts_began_at", "sign_in_attempts", ["began_at"], unique=False, schema="callboard")


def downgrade() -> None:
    op.drop_index("ix_sign_in_attempts_began_at", table_name="sign_in_attempts", schema="callboard")
    op.drop_table("sign_in_attempts", schema="callboard")
