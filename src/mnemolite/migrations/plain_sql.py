"""Run the plain SQL that lies beside a revision's file."""

from pathlib import Path

from alembic import op


def run_sql_of(revision_file: str) -> None:
    """Run ``<revision>.sql``, many statements at once, inside the migration's transaction."""
    text = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")
    # Through the driver's own cursor: no parameters, so neither ":" nor "%" has a meaning.
    cursor = op.get_bind().connection.cursor()
    try:
        cursor.execute(text)
    finally:
        cursor.close()
