"""The remote provider against a real HTTP server that misbehaves in every way it can."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
import structlog
from tokenizers import Tokenizer

from mnemolite.embeddings import create_embedder
from mnemolite.embeddings.mock import MockEmbedder
from mnemolite.embeddings.model_folder import PACKAGED_FOLDER
from mnemolite.embeddings.remote import RemoteEmbedder
from mnemolite.embeddings.remote.counting import estimate
from mnemolite.errors import (
    EmbeddingError,
    ModelBusyError,
    ModelMismatchError,
    ModelUnavailableError,
    SettingsError,
)
from tests.model_server import DIMENSION, KEY, Fault, ModelServer, running_model_server

PROTOCOLS = ("openai", "tei", "kserve")
TEXTS = [f"text {number}" for number in range(5)]
TOKENIZER = str(PACKAGED_FOLDER / "tokenizer.json")

Open = Callable[..., RemoteEmbedder]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_model_server() as running:
        yield running


@pytest.fixture
def connect(server: ModelServer) -> Iterator[Open]:
    """Opens embedders of the server and closes them."""
    opened: list[RemoteEmbedder] = []

    def open_one(**changes: Any) -> RemoteEmbedder:
        embedder = create_embedder(server.settings(**changes))
        assert isinstance(embedder, RemoteEmbedder)
        opened.append(embedder)
        server.requests.clear()
        return embedder

    yield open_one
    for embedder in opened:
        embedder.close()


def is_whole(embedder: RemoteEmbedder) -> bool:
    expected = MockEmbedder(DIMENSION).embed(TEXTS, "document")
    return np.allclose(embedder.embed(TEXTS, "document"), expected, atol=1e-6)


def fails_always(fault: Fault, *, only_on: str = "") -> Callable[[Sequence[str]], Fault | None]:
    return lambda texts: fault if any(only_on in text for text in texts) else None


def test_its_identity_is_what_the_settings_and_the_server_say(connect: Open) -> None:
    info = connect(revision="2024-05", document_prefix="doc: ").info
    assert (info.provider, info.model, info.revision) == ("remote", "test/model", "2024-05")
    assert (info.dimension, info.document_prefix) == (DIMENSION, "doc: ")


def test_prefixes_are_never_confused(connect: Open, server: ModelServer) -> None:
    embedder = connect(query_prefix="ask: ", document_prefix="tell: ")
    embedder.embed([" one "], "query")
    embedder.embed([" two "], "document")
    assert server.requests == [["ask: one"], ["tell:  two "]]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_an_openai_address_may_have_its_version(server: ModelServer, suffix: str) -> None:
    embedder = create_embedder(server.settings(url=server.url + suffix))
    assert embedder.info.dimension == DIMENSION
    embedder.close()


def test_vectors_in_base64_are_read(connect: Open, server: ModelServer) -> None:
    server.as_base64 = True
    assert is_whole(connect())


def test_batches_are_split_by_count_and_by_bytes(connect: Open, server: ModelServer) -> None:
    texts = [letter * 100 for letter in "abcdefghij"]
    assert connect(request_texts=4).embed(texts, "document").shape == (10, DIMENSION)
    assert sorted(map(len, server.requests)) == [2, 4, 4]
    assert connect(request_bytes=250).embed(texts, "document").shape == (10, DIMENSION)
    assert sorted(map(len, server.requests)) == [2] * 5
    connect(request_bytes=1).embed(["longer than the limit"], "document")
    assert server.requests == [["longer than the limit"]]


# --- Answers that are wrong ---------------------------------------------------------------------

WRONG_ONCE = {
    "too few": Fault(change=lambda rows: rows[:-1]),
    "too many": Fault(change=lambda rows: [*rows, rows[0]]),
    "not JSON": Fault(body=b"<html>Welcome to nginx</html>"),
    "JSON of another kind": Fault(body=b'"hello"'),
    "NaN": Fault(body=b"[[NaN]]"),
    "text for numbers": Fault(change=lambda rows: ["x" for _ in rows]),
    "500": Fault(status=500),
    "502": Fault(status=502, body=b"Bad Gateway"),
    "429": Fault(status=429, headers={"Retry-After": "0"}),
    "503 with Retry-After": Fault(status=503, headers={"Retry-After": "1"}),
    "cut off": Fault(cut_off=True),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("fault", WRONG_ONCE)
def test_what_goes_wrong_once_is_tried_again(
    connect: Open, server: ModelServer, fault: str, protocol: str
) -> None:
    embedder = connect(protocol=protocol)
    server.faults.append(WRONG_ONCE[fault])
    assert is_whole(embedder)
    assert server.requests == [TEXTS, TEXTS]


@pytest.mark.parametrize("fault", sorted(WRONG_ONCE.keys() - {"429"}))
def test_what_goes_wrong_always_is_an_outage(
    connect: Open, server: ModelServer, fault: str
) -> None:
    embedder = connect(retries=1)
    server.always = fails_always(WRONG_ONCE[fault])
    with pytest.raises(ModelUnavailableError, match="model server fails"):
        embedder.embed(TEXTS, "document")
    assert server.requests[:2] == [TEXTS, TEXTS]


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(status=400), Fault(status=413), Fault(status=422),
     Fault(cut_off=True), Fault(change=lambda items: items[:-1])],
)  # fmt: skip
def test_a_text_that_the_server_fails_on_is_to_blame_itself(
    connect: Open, server: ModelServer, fault: Fault
) -> None:
    embedder = connect()
    server.always = fails_always(fault, only_on="poison")
    for _ in range(5):  # and the circuit stays closed
        with pytest.raises(EmbeddingError, match="fails on the text") as caught:
            embedder.embed(["poison"], "document")
        assert not isinstance(caught.value, ModelUnavailableError)
    assert is_whole(embedder)


def test_the_order_is_that_of_the_index(connect: Open, server: ModelServer) -> None:
    embedder = connect()
    server.faults.append(Fault(change=lambda items: items[::-1]))
    assert is_whole(embedder)
    assert len(server.requests) == 1


def test_an_index_that_comes_twice_is_refused(connect: Open, server: ModelServer) -> None:
    embedder = connect()
    server.faults.append(Fault(change=lambda items: [items[0] | {"index": 1}, *items[1:]]))
    assert is_whole(embedder)
    assert len(server.requests) == 2


def test_another_dimension_is_another_model(connect: Open, server: ModelServer) -> None:
    embedder = connect()
    server.dimension = DIMENSION * 2
    with pytest.raises(ModelMismatchError, match=r"64 dimensions.*32"):
        embedder.embed(TEXTS, "document")


@pytest.mark.parametrize("number", ["null", "1e999", "0"])
def test_vectors_without_a_direction_are_refused(
    connect: Open, server: ModelServer, number: str
) -> None:
    embedder = connect(protocol="tei")
    row = f"[{', '.join([number] * DIMENSION)}]"
    server.always = fails_always(Fault(body=f"[{row}]".encode()), only_on="poison")
    with pytest.raises(EmbeddingError):
        embedder.embed(["poison"], "document")


def test_vectors_are_normalised(connect: Open, server: ModelServer) -> None:
    embedder = connect(protocol="tei")
    row = [3.0, 4.0] + [0.0] * (DIMENSION - 2)
    server.faults.append(Fault(body=json.dumps([row]).encode()))
    assert embedder.embed(["a"], "query")[0, :2].tolist() == pytest.approx([0.6, 0.8])


# --- A server that is busy, slow, locked or gone ------------------------------------------------


def test_a_busy_server_is_given_the_time_it_asks_for(connect: Open, server: ModelServer) -> None:
    embedder = connect()
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    server.faults += [Fault(status=429, headers={"Retry-After": after}) for after in ("1", soon)]
    assert is_whole(embedder)
    assert len(server.requests) == 3


@pytest.mark.parametrize("after", ["9999999", "3600"])
def test_a_server_that_is_busy_for_long_is_left_alone(
    connect: Open, server: ModelServer, after: str
) -> None:
    embedder = connect()
    server.always = fails_always(Fault(status=429, headers={"Retry-After": after}))
    with pytest.raises(ModelBusyError) as caught:
        embedder.embed(TEXTS, "document")
    assert (caught.value.retry_after, len(server.requests)) == (3600, 1)


def test_a_slow_server_is_not_waited_for_longer_than_allowed(
    connect: Open, server: ModelServer
) -> None:
    embedder = connect(timeout_seconds=0.2)
    server.always = fails_always(Fault(seconds=60))
    with pytest.raises(ModelUnavailableError, match="no answer in time"):
        embedder.embed(TEXTS, "document")
    assert server.requests[0] == TEXTS
    assert len([texts for texts in server.requests if texts == TEXTS]) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_tried_again(connect: Open, server: ModelServer, status: int) -> None:
    embedder = connect()
    server.always = fails_always(Fault(status=status, body=b"no"))
    with pytest.raises(ModelUnavailableError, match=f"answered {status}") as caught:
        embedder.embed(TEXTS, "document")
    assert caught.value.remedy
    assert len(server.requests) == 1


def test_a_server_that_is_gone_opens_the_circuit_until_it_is_back(server: ModelServer) -> None:
    embedder = create_embedder(server.settings(retries=0, circuit_seconds=3600))
    server.always = fails_always(Fault(status=500))
    for _ in range(3):
        with pytest.raises(ModelUnavailableError, match="answered 500"):
            embedder.embed(TEXTS, "query")
    asked = len(server.requests)
    with pytest.raises(ModelUnavailableError, match="left alone") as caught:
        embedder.embed(TEXTS, "query")
    assert caught.value.retry_after
    assert len(server.requests) == asked
    embedder.close()


def test_the_circuit_closes_once_the_server_answers_again(
    connect: Open, server: ModelServer
) -> None:
    embedder = connect(retries=0, circuit_seconds=0.01)
    server.always = fails_always(Fault(status=500))
    for _ in range(4):
        with pytest.raises(ModelUnavailableError):
            embedder.embed(TEXTS, "query")
        threading.Event().wait(0.02)
    server.always = lambda texts: None
    assert is_whole(embedder)


def test_closing_ends_the_calls_in_flight(connect: Open, server: ModelServer) -> None:
    embedder = connect(timeout_seconds=300)
    server.always = fails_always(Fault(status=503, headers={"Retry-After": "250"}))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(embedder.embed, TEXTS, "document")
        while not server.requests:
            threading.Event().wait(0.01)
        embedder.close()
        with pytest.raises(EmbeddingError):
            call.result(timeout=60)


# --- The start ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_refuses_connections_stops_the_start(protocol: str) -> None:
    with running_model_server() as server:
        settings = server.settings(protocol=protocol, retries=1)
    with pytest.raises(ModelUnavailableError, match="cannot be used") as caught:
        create_embedder(settings)
    assert caught.value.field == "MNEMO_EMBEDDING_URL"
    assert "MNEMO_EMBEDDING_PROTOCOL" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"url": None}, "MNEMO_EMBEDDING_URL"),
        ({"dimension": 7}, "EMBEDDING_DIMENSION"),
        ({"max_tokens": 64, "document_prefix": "word " * 60}, "MNEMO_EMBEDDING_MAX_TOKENS"),
    ],
)
def test_a_wrong_setting_is_named(server: ModelServer, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        create_embedder(server.settings(**changes))
    assert caught.value.field == field


def test_a_tokeniser_that_is_none_is_named(server: ModelServer) -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        create_embedder(server.settings(tokenizer="/no/such/file"))
    assert caught.value.field == "MNEMO_EMBEDDING_TOKENIZER"


def test_a_model_unknown_to_the_server_stops_the_start(server: ModelServer) -> None:
    with pytest.raises(ModelUnavailableError, match="answered 404"):
        create_embedder(server.settings(protocol="kserve", model="another"))


# --- The key ------------------------------------------------------------------------------------


def test_the_key_is_sent_and_never_shown(
    server: ModelServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    structlog.reset_defaults()
    settings = server.settings(api_key=KEY, retries=1)
    embedder = create_embedder(settings)
    assert server.keys == {f"Bearer {KEY}"}
    for fault in (Fault(status=401, body=f"Bad key {KEY}".encode()), Fault(status=500),
                  Fault(status=400, body=KEY.encode()), Fault(cut_off=True)):  # fmt: skip
        server.always = fails_always(fault)
        with pytest.raises(EmbeddingError) as caught:
            embedder.embed(TEXTS, "query")
        assert KEY not in repr(caught.getrepr(style="long", showlocals=False))
        assert KEY not in str(caught.value)
    embedder.close()
    printed = capsys.readouterr()
    assert KEY not in caplog.text + printed.out + printed.err + repr(settings)
    assert caplog.records


# --- Counting tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog, and then sleeps in the sun.",
        "ERR-4512 in /var/log/app.log, mail ada@example.org, node 18.2.1, C++",
        "Привет, как дела? مرحبا بالعالم שלום עולם",
        "今天天气很好。我们去公园散步吧。",
        "\U0001f600\U0001f389 \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "0123456789" * 5,
        "antidisestablishmentarianism floccinaucinihilipilification xkcd qwrtzp",
        "def f(x: int) -> int:\n\treturn x ** 2  # squared\n",
    ],
)
def test_the_estimate_is_not_below_a_real_tokeniser(text: str) -> None:
    tokenizer = Tokenizer.from_file(TOKENIZER)
    tokenizer.no_padding()
    assert len(estimate(text)) >= len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_with_its_tokeniser_a_document_beyond_the_window_is_refused(connect: Open) -> None:
    embedder = connect(tokenizer=TOKENIZER, max_tokens=64)
    with pytest.raises(EmbeddingError, match="64 tokens") as caught:
        embedder.embed(["fine", "word " * 100], "document")
    assert caught.value.field == "texts[1]"
    spans = embedder.passages("word " * 500)
    assert len(spans) > 10
    pieces = [("word " * 500)[slice(*span)] for span in spans]
    assert embedder.embed(pieces, "document").shape == (len(spans), DIMENSION)


@pytest.mark.parametrize("tokenizer", [None, TOKENIZER])
def test_a_long_query_is_cut_to_the_window(
    connect: Open, server: ModelServer, tokenizer: str | None
) -> None:
    embedder = connect(tokenizer=tokenizer, max_tokens=64, query_prefix="ask: ")
    embedder.embed(["word " * 1000], "query")
    ((sent,),) = server.requests
    assert sent.startswith("ask: word word")
    assert len(sent) < 400
