"""Centre: the mean of a space's vectors, which its index is built around."""

from mnemolite.migrations.plain_sql import run_sql_of

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_of(__file__)
