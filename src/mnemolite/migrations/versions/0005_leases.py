"""Leases: claims that lapse by themselves, and the workers that hold them."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql_of(__file__)
