"""Foundation: events, embedding spaces, the embedding queue."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql_of(__file__)
