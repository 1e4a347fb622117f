"""Adoption: a foreign database is taken over, and until that is over it can be given back."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql_of(__file__)
