"""A cross-encoder in this process, run by sentence-transformers; torch is imported here only."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from mnemolite.errors import RerankerUnavailableError, RerankingError, SettingsError
from mnemolite.reranking import RerankerInfo, check_pairs, check_scores

if TYPE_CHECKING:
    from mnemolite.settings import RerankerSettings

# A thread cannot be stopped from outside: it looks between two batches whether anybody still
# waits, so a batch must be short.
_BATCH = 8
# Hub ids and folders that are missing, damaged or of another kind.
_LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)
# Torch's, the tokeniser's, and those of a closed executor.
_RUNNING_ERRORS = (RuntimeError, ValueError, IndexError)


class CrossEncoderReranker:
    """One thread judges, call by call; calls that nobody waits for any more are dropped."""

    info: RerankerInfo

    def __init__(self, settings: "RerankerSettings") -> None:
        if settings.model is None:
            raise SettingsError(
                "A cross-encoder needs a local folder or a hub id.", field="MNEMO_RERANKER_MODEL"
            )
        self.info = RerankerInfo(provider="cross-encoder", model=settings.model)
        self._model = _load(settings.model, settings.device)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rerank")

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        check_pairs(query, texts)
        abandoned = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            scores = await loop.run_in_executor(
                self._executor, partial(self._score, query, list(texts), abandoned=abandoned)
            )
        except _RUNNING_ERRORS as error:
            raise RerankingError(f"The cross-encoder failed: {error}") from error
        finally:
            abandoned.set()
        return check_scores(scores, len(texts))

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)

    def _score(self, query: str, texts: list[str], *, abandoned: threading.Event) -> list[float]:
        scores = [0.0] * len(texts)
        for numbers in _batches(texts):
            if abandoned.is_set():
                break
            pairs = [(query, texts[number]) for number in numbers]
            judged = self._model.predict(pairs, batch_size=_BATCH, show_progress_bar=False)
            for number, score in zip(numbers, judged, strict=True):
                scores[number] = float(score)
        return scores


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """The numbers of the texts, those of similar length together: a batch is as slow as its
    longest."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]


def _load(name: str, device: str) -> Any:
    try:
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import CrossEncoder
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise RerankerUnavailableError(
            "A cross-encoder needs the package sentence-transformers.",
            field="MNEMO_RERANKER",
            remedy="Run: pip install 'mnemolite[sentence-transformers]'",
        ) from error
    if device != "cpu" and not getattr(torch, device).is_available():
        raise RerankerUnavailableError(
            f"torch finds no {device} here.", field="MNEMO_RERANKER_DEVICE", remedy="Use cpu."
        )
    disable_progress_bar()  # it would stand between the lines of the log
    try:
        model = CrossEncoder(name, device=device)
    except (*_LOADING_ERRORS, SafetensorError) as error:
        raise _unusable(name, str(error)) from error
    _check_head(name, model)
    return model


def _check_head(name: str, model: Any) -> None:
    """Refuse a model that gives no score; one without a trained head would get a random one."""
    kinds = getattr(getattr(model.model, "config", None), "architectures", None) or []
    if not any(kind.endswith(("ForSequenceClassification", "ForCausalLM")) for kind in kinds):
        raise _unusable(name, f"it is no cross-encoder but {', '.join(kinds) or 'unknown'}")
    if model.num_labels != 1:
        raise _unusable(name, f"it gives {model.num_labels} numbers for a pair, not one score")


def _unusable(name: str, reason: str) -> RerankerUnavailableError:
    return RerankerUnavailableError(
        f"The cross-encoder {name!r} cannot be used: {reason}", field="MNEMO_RERANKER_MODEL"
    )
