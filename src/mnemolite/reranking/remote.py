"""Rerankers behind HTTP: the ``/rerank`` routes of TEI, Cohere and Jina, and of what imitates them.

Importing this module loads the HTTP client.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from mnemolite.errors import RerankingError, SettingsError
from mnemolite.reranking import RerankerInfo, check_pairs, check_scores
from mnemolite.reranking.endpoint import Endpoint

if TYPE_CHECKING:
    from mnemolite.settings import RerankerSettings

_MODEL_OF_THE_SERVER = "the server's own"


@dataclass(frozen=True, kw_only=True)
class _Form:
    """How one kind of server is asked, and where its answer has the scores."""

    path: str
    home: str | None
    texts: str
    options: Mapping[str, object]
    names_model: bool
    results: str | None
    score: str
    max_texts: int


_FORMS = {
    # Without `truncate`, TEI refuses the whole request for one text that is too long; 32 is its
    # default for --max-client-batch-size.
    "tei": _Form(
        path="/rerank",
        home=None,
        texts="texts",
        options={"truncate": True},
        names_model=False,
        results=None,
        score="score",
        max_texts=32,
    ),
    "cohere": _Form(
        path="/v2/rerank",
        home="https://api.cohere.com",
        texts="documents",
        options={},
        names_model=True,
        results="results",
        score="relevance_score",
        max_texts=1000,
    ),
    # Jina sends the documents back unless told not to.
    "jina": _Form(
        path="/v1/rerank",
        home="https://api.jina.ai",
        texts="documents",
        options={"return_documents": False},
        names_model=True,
        results="results",
        score="relevance_score",
        max_texts=1000,
    ),
}


class RemoteReranker:
    """A server that is asked over HTTP; nothing is sent to it before the first ``rerank``."""

    info: RerankerInfo

    def __init__(self, settings: "RerankerSettings") -> None:
        self._form = _FORMS[settings.provider]
        if self._form.names_model and settings.model is None:
            raise SettingsError(
                f"A reranker of the form {settings.provider} needs the name of a model.",
                field="MNEMO_RERANKER_MODEL",
            )
        self._model = settings.model or _MODEL_OF_THE_SERVER
        self.info = RerankerInfo(provider=settings.provider, model=self._model)
        _check_key(settings, self._form)
        self._endpoint = Endpoint(
            _address(settings, self._form),
            key=settings.api_key,
            seconds=settings.deadline_seconds,
        )

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        check_pairs(query, texts)
        size = self._form.max_texts
        parts = [list(texts[start : start + size]) for start in range(0, len(texts), size)]
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._ask(query, part)) for part in parts]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [score for task in asked for score in task.result()]

    async def close(self) -> None:
        await self._endpoint.close()

    async def _ask(self, query: str, texts: list[str]) -> list[float]:
        form = self._form
        payload: dict[str, object] = {"query": query, form.texts: texts, **form.options}
        if form.names_model:
            payload |= {"model": self._model, "top_n": len(texts)}
        answer = await self._endpoint.post(payload)
        return read_scores(answer, len(texts), results=form.results, score=form.score)


def read_scores(answer: object, count: int, *, results: str | None, score: str) -> list[float]:
    """The scores of an answer in the order of the texts. Raises RerankingError.

    ``results`` is the key of the list, None if the answer is the list; ``score`` is the key of the
    number in each of its items, beside ``index``.
    """
    items = answer if results is None or not isinstance(answer, dict) else answer.get(results)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RerankingError("The reranker's answer holds no list of results.")
    found: dict[int, float] = {}
    for item in items:
        index, value = item.get("index"), item.get(score)
        if type(index) is not int or not 0 <= index < count:
            raise RerankingError(f"The reranker gave a score to text {index!r} of {count}.")
        if index in found:
            raise RerankingError(f"The reranker gave two scores to text {index}.")
        if type(value) not in {int, float}:
            raise RerankingError(f"The reranker gave the score {value!r} to text {index}.")
        found[index] = float(value)
    return check_scores([found[index] for index in sorted(found)], count)


def _address(settings: "RerankerSettings", form: _Form) -> httpx.URL:
    """The route: what the setting says, with the form's path unless it names a route already."""
    written = settings.url or form.home
    if written is None:
        raise SettingsError(
            f"A reranker of the form {settings.provider} needs an address.",
            field="MNEMO_RERANKER_URL",
        )
    try:
        url = httpx.URL(written)
    except httpx.InvalidURL as error:
        raise _bad_address() from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise _bad_address()
    path = url.path.rstrip("/")
    return url if path.endswith("/rerank") else url.copy_with(path=path + form.path)


def _bad_address() -> SettingsError:
    return SettingsError(
        "The address is not one of HTTP.",
        field="MNEMO_RERANKER_URL",
        remedy="Write it as http://host:port or https://host.",
    )


def _check_key(settings: "RerankerSettings", form: _Form) -> None:
    if settings.api_key is None:
        if settings.url is None and form.home is not None:
            raise SettingsError(f"{form.home} needs a key.", field="MNEMO_RERANKER_API_KEY")
        return
    key = settings.api_key.get_secret_value()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise SettingsError(
            "The key holds a blank or a character that HTTP cannot send.",
            field="MNEMO_RERANKER_API_KEY",
        )
