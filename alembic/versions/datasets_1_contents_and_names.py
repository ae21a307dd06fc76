"""Datasets: contents, their chunks, and the names that point to them.

Revision ID: datasets_1
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "datasets_1"
down_revision = None
branch_labels = ("datasets",)
depends_on = "0001"


def upgrade() -> None:
    op.create_table(
        "dataset_contents",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("lines", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("size <= 52428800", name=op.f("ck_dataset_contents_size")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_contents")),
        schema="callboard",
    )
    op.create_index("ix_dataset_contents_expires_at", "dataset_contents", ["expires_at"], schema="callboard")
    op.create_table(
        "dataset_chunks",
        sa.Column("content_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["content_id"],
            ["callboard.dataset_contents.id"],
            name=op.f("fk_dataset_chunks_content_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("content_id", "number", name=op.f("pk_dataset_chunks")),
        schema="callboard",
    )
    op.create_table(
        "datasets",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("content_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["content_id"], ["callboard.dataset_contents.id"], name=op.f("fk_datasets_content_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("content_id", name=op.f("uq_datasets_content_id")),
        schema="callboard",
    )


def downgrade() -> None:
    op.drop_table("datasets", schema="callboard")
    op.drop_table("dataset_chunks", schema="callboard")
    op.drop_index("ix_dataset_contents_expires_at", table_name="dataset_contents", schema="callboard")
    op.drop_table("dataset_contents", schema="callboard")
