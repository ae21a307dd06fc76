"""Cafés and cities: the sample domain, on a branch of its own; ``alembic downgrade cafes@base`` drops it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "cafes_0001"
down_revision = None
branch_labels = ("cafes",)
depends_on = "0001"


def upgrade() -> None:
    op.create_table(
        "cities",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("country_code", sa.Text(), nullable=False),
        sa.Column("cafes_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), server_default="ACTIVE", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('ACTIVE', 'HIDDEN')", name=op.f("ck_cities_status")),
        sa.PrimaryKeyConstraint("tenant_id", "slug", name=op.f("pk_cities")),
        schema="callboard",
    )
    op.create_table(
        "cafes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("city_slug", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
        sa.Column("status", sa.Text(), server_default="NEW", nullable=False),
        sa.Column("discard_reason", sa.Text(), nullable=True),
        sa.Column("processed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rating", sa.Double(), nullable=True),
        sa.Column("review_count", sa.Integer(), nullable=True),
        sa.Column("price_level", sa.SmallInteger(), nullable=True),
        sa.Column("opening_hours", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("website", sa.Text(), nullable=True),
        sa.Column("links", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("source", sa.Text(), server_default="import", nullable=False),
        sa.Column("source_place_id", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("price_level BETWEEN 0 AND 4", name=op.f("ck_cafes_price_level")),
        sa.CheckConstraint(
            "status IN ('NEW', 'PROCESSED', 'PUBLISHED', 'CLOSED', 'NOT_FRIENDLY', 'DISCARDED', 'DUPLICATE', 'ERROR',"
            " 'UNKNOWN')",
            name=op.f("ck_cafes_status"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "city_slug"],
            ["callboard.cities.tenant_id", "callboard.cities.slug"],
            name=op.f("fk_cafes_tenant_id_city_slug"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cafes")),
        schema="callboard",
    )
    op.create_index("uq_cafes_slug", "cafes", ["tenant_id", "city_slug", "slug"], unique=True, schema="callboard")
    op.create_index("ix_cafes_due", "cafes", ["status", "processed_at"], unique=False, schema="callboard")


def downgrade() -> None:
    op.drop_table("cafes", schema="callboard")
    op.drop_table("cities", schema="callboard")
