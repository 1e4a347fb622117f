"""Partitions: how the events and their vectors are laid out in time."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql_of(__file__)
