"""Retention: rules by which events go, holds that keep them, and a log of what went."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_sql_of(__file__)
