"""What every embedder promises, whichever provider runs it."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnemolite.embeddings import Embedder, Kind, Vectors, create_embedder
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import EmbeddingError, InvalidInputError, InvalidTextError
from mnemolite.settings import EmbeddingSettings
from tests.extras import minilm_folder, needs_sentence_transformers
from tests.model_folders import write_nomic
from tests.model_server import ModelServer, running_model_server

Same = Callable[[Vectors, Vectors], None]

PROVIDERS = [
    pytest.param("mock"),
    pytest.param("onnx"),
    # A folder in the layout of nomic-embed-text-v1.5, cut to 256 dimensions, with dynamic int8.
    pytest.param("onnx-folder"),
    pytest.param("sentence-transformers", marks=needs_sentence_transformers),
    pytest.param("remote-openai"),
    pytest.param("remote-tei"),
    pytest.param("remote-kserve"),
]
# How far a number of a unit vector may move with the company of its text. PyTorch sums in another
# order when a batch or its padding has another shape; the most that was measured is 2e-7.
TOLERANCES = {"sentence-transformers": 1e-6}
TEXTS = [
    "cat",
    "The quick brown fox jumps over the lazy dog, and then sleeps in the sun. " * 8,
    "ERR-4512 in /var/log/app.log, mail ada@example.org, node 18.2.1, C++",
    "\U0001f600\U0001f389 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "今天天气很好。我们去公园散步吧。",
    "Привет, как дела? مرحبا بالعالم שלום עולם สวัสดีชาวโลก",
    "naïve café, e\u0301 combined, \u202eright to left\u202c, zero\u200bwidth",
    "def f(x: int) -> int:\n\treturn x ** 2  # squared\n",
    "\x00\x01 control characters \x7f",
    "?",
]
ANY_TEXT = st.text(min_size=1).filter(lambda text: not text.isspace())
ACROSS_EXAMPLES = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model_server() -> Iterator[ModelServer]:
    with running_model_server() as server:
        yield server


@pytest.fixture(scope="module")
def chosen(
    provider: str, model_server: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> EmbeddingSettings:
    """The settings that choose the provider."""
    match provider:
        case "remote-openai" | "remote-tei" | "remote-kserve":
            return model_server.settings(protocol=provider.removeprefix("remote-"))
        case "mock":
            return EmbeddingSettings(mode="mock")
        case "onnx-folder":
            folder = write_nomic(tmp_path_factory.mktemp("models") / "nomic-embed-text-v1.5")
            return EmbeddingSettings(model=str(folder), dimension=256, threads=2)
        case "sentence-transformers":
            model = minilm_folder()
            return EmbeddingSettings(provider="sentence-transformers", model=model, threads=2)
        case _:
            return EmbeddingSettings(threads=2)


@pytest.fixture(scope="module")
def embedder(chosen: EmbeddingSettings) -> Iterator[Embedder]:
    embedder = create_embedder(chosen)
    yield embedder
    embedder.close()


@pytest.fixture
def assert_same(provider: str) -> Same:
    """Compare vectors of the same texts in other company, within the provider's tolerance."""

    def compare(one: Vectors, other: Vectors) -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCES.get(provider, 0))

    return compare


@pytest.mark.parametrize("kind", ["query", "document"])
def test_rows_have_the_dimension_and_unit_length(embedder: Embedder, kind: Kind) -> None:
    vectors = embedder.embed(TEXTS, kind)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.info.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    assert embedder.embed([], "document").shape == (0, embedder.info.dimension)


def test_a_batch_equals_its_texts_alone_in_any_order(embedder: Embedder, assert_same: Same) -> None:
    together = embedder.embed(TEXTS, "document")
    backwards = embedder.embed(TEXTS[::-1], "document")[::-1]
    alone = np.concatenate([embedder.embed([text], "document") for text in TEXTS])
    assert_same(together, alone)
    assert_same(together, backwards)


def test_a_large_batch_of_mixed_lengths_keeps_its_order(
    embedder: Embedder, assert_same: Same
) -> None:
    texts = [f"number {number} " + "word " * (number * 31 % 200) for number in range(150)]
    order = random.Random(1).sample(range(150), 150)
    vectors = embedder.embed(texts, "document")
    shuffled = embedder.embed([texts[row] for row in order], "document")
    assert_same(shuffled, vectors[order])


def test_another_process_computes_the_same(
    embedder: Embedder, chosen: EmbeddingSettings, assert_same: Same, *, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from mnemolite.embeddings import create_embedder\n"
        "from mnemolite.settings import EmbeddingSettings\n"
        "embedder = create_embedder(EmbeddingSettings.model_validate_json(sys.argv[1]))\n"
        "np.save(sys.argv[2], embedder.embed(['cat', 'Où est la gare ?'], 'document'))\n"
        "print(embedder.info.digest)\n"
    )
    file = tmp_path / "vectors.npy"
    command = [sys.executable, "-c", code, chosen.model_dump_json(), str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == embedder.info.digest
    assert_same(np.load(file), embedder.embed(["cat", "Où est la gare ?"], "document"))


@pytest.mark.parametrize("text", ["", " ", "\n\t\u2003"])
def test_a_blank_text_is_refused_by_name(embedder: Embedder, text: str) -> None:
    with pytest.raises(InvalidInputError, match="blank") as caught:
        embedder.embed(["fine", text], "document")
    assert caught.value.field == "texts[1]"


def test_a_lone_surrogate_is_refused_by_name(embedder: Embedder) -> None:
    with pytest.raises(InvalidTextError, match="Character 3") as caught:
        embedder.embed(["fine", "bad\ud800"], "query")
    assert caught.value.field == "texts[1]"


def test_a_text_that_fits_is_one_passage(embedder: Embedder) -> None:
    assert embedder.passages("Hello there.") == [(0, 12)]


def test_a_long_text_is_covered_by_passages_that_can_be_embedded(embedder: Embedder) -> None:
    text = "".join(f"Sentence {number} says {number % 7} things.\n" for number in range(3600))
    assert len(text) >= 100_000
    spans = embedder.passages(text)
    assert spans == embedder.passages(text)
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    assert all(first < second <= end for (first, end), (second, _) in pairwise(spans))
    wrapped = [recall_text(text[slice(*span)], speaker="Somebody") for span in spans]
    try:
        vectors = embedder.embed(wrapped[:5] + wrapped[-5:], "document")
    except EmbeddingError as error:
        pytest.fail(f"a passage does not fit: {error}")
    assert len(vectors) == 10


@ACROSS_EXAMPLES
@given(text=ANY_TEXT, times=st.integers(1, 300))
def test_any_text_is_covered_and_its_passages_fit(
    embedder: Embedder, text: str, times: int
) -> None:
    long = text * times
    spans = embedder.passages(long)
    assert (spans[0][0], spans[-1][1]) == (0, len(long))
    assert all(start < end for start, end in spans)
    assert all(start <= end for (_, end), (start, _) in pairwise(spans))
    pieces = [long[slice(*span)] for span in (spans[0], spans[-1])]
    assert np.isfinite(embedder.embed(pieces, "document")).all()


def test_threads_get_what_one_would(embedder: Embedder, assert_same: Same) -> None:
    expected = embedder.embed(TEXTS, "document")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: embedder.embed(TEXTS, "document"), range(8)))
    for result in results:
        assert_same(result, expected)


async def test_a_caller_who_leaves_takes_nobody_along(
    embedder: Embedder, assert_same: Same
) -> None:
    batching = BatchingEmbedder(embedder)
    leaving = asyncio.create_task(batching.embed_documents([f"{text} twice" for text in TEXTS]))
    asking = [asyncio.create_task(batching.embed_query("cat")) for _ in range(2)]
    staying = asyncio.create_task(batching.embed_documents(TEXTS))
    await asyncio.sleep(0)
    leaving.cancel()
    asking[0].cancel()
    [query] = embedder.embed(["cat"], "query")
    assert_same(await asking[1], query)
    assert_same(await staying, embedder.embed(TEXTS, "document"))
    for left in (leaving, asking[0]):
        with pytest.raises(asyncio.CancelledError):
            await left


def test_closing_is_harmless(chosen: EmbeddingSettings) -> None:
    embedder = create_embedder(chosen)
    embedder.close()
    embedder.close()
