"""Feed: what became of the events, in an order in which readers miss nothing."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql_of(__file__)
