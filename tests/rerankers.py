"""What the tests of reranking share: a tiny cross-encoder, and a server that can misbehave."""

import asyncio
import contextlib
import json
import string
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

needs_cross_encoder = pytest.mark.skipif(
    find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)

Items = list[dict[str, Any]]


# --- A cross-encoder ----------------------------------------------------------------------------


def build_cross_encoder(folder: Path, *, labels: int = 1, head: bool = True) -> Path:
    """Save a BERT of one small layer with random weights, and its tokeniser, into a folder."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertModel,
        PreTrainedTokenizerFast,
    )

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), ".", ",", ":", '"']
    wordpiece = BertWordPieceTokenizer(vocab={piece: n for n, piece in enumerate(pieces)})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=wordpiece._tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        initializer_range=0.5,  # so that different texts get clearly different scores
        num_labels=labels,
    )
    torch.manual_seed(7)
    model = BertForSequenceClassification(config) if head else BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- A server -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How the server answers one request; by default honestly."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    tamper: Callable[[Items], object] | None = None
    body: bytes | None = None
    delay_seconds: float = 0
    cut: bool = False


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    payload: dict[str, Any]


class RerankServer:
    """Speaks the form of its path. A text's score is the number of query words that it holds."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: list[Answer] = []
        self.default = Answer()
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that gives up, or the end of the test, ends the connection at any place.
        ended = (ConnectionError, asyncio.IncompleteReadError)
        with contextlib.closing(writer), contextlib.suppress(*ended):
            while True:
                asked = await self._read(reader)
                self.asked.append(asked)
                answer = self.answers.pop(0) if self.answers else self.default
                await asyncio.sleep(answer.delay_seconds)
                sent = self._write(answer, asked)
                writer.write(sent[: len(sent) // 2] if answer.cut else sent)
                await writer.drain()
                if answer.cut:
                    break

    async def _read(self, reader: asyncio.StreamReader) -> Asked:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        return Asked(head[0].split()[1], headers, json.loads(body))

    def _write(self, answer: Answer, asked: Asked) -> bytes:
        body = self._honest(answer, asked) if answer.body is None else answer.body
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        lines = [f"{name}: {value}\r\n" for name, value in (headers | answer.headers).items()]
        return f"HTTP/1.1 {answer.status} X\r\n{''.join(lines)}\r\n".encode() + body

    def _honest(self, answer: Answer, asked: Asked) -> bytes:
        tei = asked.path == "/rerank"
        texts = asked.payload["texts" if tei else "documents"]
        words = asked.payload["query"].lower().split()
        key = "score" if tei else "relevance_score"
        items: Items = [
            {"index": n, key: float(sum(word in text.lower() for word in words))}
            for n, text in enumerate(texts)
        ]
        items.sort(key=lambda item: -item[key])
        results = answer.tamper(items) if answer.tamper else items
        return json.dumps(results if tei else {"results": results}).encode()


@contextlib.asynccontextmanager
async def rerank_server() -> AsyncIterator[RerankServer]:
    """A server on a free port of the loopback address."""
    server = RerankServer()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
