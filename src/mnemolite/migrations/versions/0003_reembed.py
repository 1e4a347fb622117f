"""Reembed: one space succeeds another, and all of them are kept complete until they are dropped."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_of(__file__)
