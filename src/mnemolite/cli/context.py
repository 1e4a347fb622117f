"""`mnemolite context`."""

from typing import Annotated, Any

import typer

from mnemolite.cli.search import (
    MinSimilarity,
    ModeOption,
    RerankOption,
    SessionOption,
    Since,
    Until,
    WhereOption,
    show_meta,
)
from mnemolite.cli.terminal import (
    DataDir,
    Json,
    NamespaceOption,
    err,
    json_option,
    moment,
    out,
    run,
    settings_of,
    validated,
)
from mnemolite.settings import Settings


def context(
    q: Annotated[str, typer.Argument(help="The question or the words.")],
    *,
    max_tokens: Annotated[int, typer.Option(help="The text never has more tokens.")] = 1000,
    tokenizer: Annotated[
        str, typer.Option(help="What counts tokens: all-MiniLM-L6-v2 or characters/4.")
    ] = "all-MiniLM-L6-v2",
    namespace: NamespaceOption = "default",
    session: SessionOption = None,
    since: Since = None,
    until: Until = None,
    where: WhereOption = None,
    mode: ModeOption = "hybrid",
    limit: Annotated[int, typer.Option(help="Hits to choose from.")] = 50,
    neighbours: Annotated[int, typer.Option(help="Places around each hit to choose from.")] = 1,
    min_similarity: MinSimilarity = None,
    rerank: RerankOption = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Print memories as a text for a prompt, within a number of tokens."""
    query = {
        "q": q,
        "max_tokens": max_tokens,
        "tokenizer": tokenizer,
        "namespace": namespace,
        "session": session,
        "since": moment(since),
        "until": moment(until),
        "where": None if where is None else json_option(where, "--where"),
        "mode": mode,
        "limit": limit,
        "neighbours": neighbours,
        "min_similarity": min_similarity,
        "rerank": rerank,
    }
    packed = run(_context(settings_of(data_dir), query))
    out.print_json(packed.model_dump_json()) if as_json else _show(packed)


async def _context(settings: Settings, fields: dict[str, Any]) -> Any:
    from mnemolite.memory import Memory

    query = validated("ContextQuery", fields)
    parts = {"with_model": query.mode != "text", "with_reranker": query.rerank is not False}
    async with Memory.open(settings, **parts) as memory:
        return await memory.context(query)


def _show(packed: Any) -> None:
    # As it is, for programs that pass it on: no markup, no wrapping, no colours.
    typer.echo(packed.text)
    err.print(f"{packed.tokens} of {packed.max_tokens} tokens ({packed.tokenizer})")
    show_meta(packed.meta)
