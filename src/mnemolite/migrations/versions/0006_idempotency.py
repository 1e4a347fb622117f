"""Idempotency keys: how a request was answered, so that its retry is answered alike."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql_of(__file__)
