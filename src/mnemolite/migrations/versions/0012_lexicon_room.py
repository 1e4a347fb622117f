"""Room in the pages of the lexicon: counting words leaves its index alone, and writes less WAL."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_sql_of(__file__)
