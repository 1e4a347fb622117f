"""Webhooks: targets that are told of changes, and what has been told to them."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_of(__file__)
