"""`mnemolite db`: the database itself."""

import typer

from mnemolite.cli.terminal import DataDir, out, run, settings_of

app = typer.Typer(help="The database itself.", no_args_is_help=True)


@app.command()
def upgrade(*, data_dir: DataDir = None) -> None:
    """Create the schema, or bring it up to date."""
    settings = settings_of(data_dir)

    async def read_facts() -> dict[str, str]:
        from mnemolite.memory import Memory

        async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
            return await memory.database_facts()

    facts = run(read_facts())
    out.print(f"Schema {facts['schema']} on PostgreSQL {facts['PostgreSQL']}.")
