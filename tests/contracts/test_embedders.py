"""What every embedder promises, whichever provider runs it."""

import hashlib
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnemolite.embeddings import Embedder, Kind, create_embedder
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import EmbeddingError, InvalidInputError, InvalidTextError
from mnemolite.settings import EmbeddingSettings

SETTINGS = {
    "mock": EmbeddingSettings(mode="mock", provider="onnx", dimension=None),
    "onnx": EmbeddingSettings(mode="real", provider="onnx", dimension=None, threads=2),
}
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
ACROSS_EXAMPLES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def embedder(provider: str) -> Embedder:
    return create_embedder(SETTINGS[provider])


@pytest.mark.parametrize("kind", ["query", "document"])
def test_rows_have_the_dimension_and_unit_length(embedder: Embedder, kind: Kind) -> None:
    vectors = embedder.embed(TEXTS, kind)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.info.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    assert embedder.embed([], "document").shape == (0, embedder.info.dimension)


def test_a_batch_equals_its_texts_alone_in_any_order(embedder: Embedder) -> None:
    together = embedder.embed(TEXTS, "document")
    backwards = embedder.embed(TEXTS[::-1], "document")[::-1]
    alone = np.concatenate([embedder.embed([text], "document") for text in TEXTS])
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)


def test_a_large_batch_of_mixed_lengths_keeps_its_order(embedder: Embedder) -> None:
    texts = [f"number {number} " + "word " * (number * 31 % 200) for number in range(150)]
    order = random.Random(1).sample(range(150), 150)
    vectors = embedder.embed(texts, "document")
    shuffled = embedder.embed([texts[row] for row in order], "document")
    assert np.array_equal(shuffled, vectors[order])


def test_another_process_computes_the_same_bits(embedder: Embedder, provider: str) -> None:
    code = (
        "import sys, hashlib\n"
        "from mnemolite.embeddings import create_embedder\n"
        "from mnemolite.settings import EmbeddingSettings\n"
        "settings = EmbeddingSettings.model_validate_json(sys.argv[1])\n"
        "embedder = create_embedder(settings)\n"
        "vectors = embedder.embed(['cat', 'Où est la gare ?'], 'document')\n"
        "print(embedder.info.digest, hashlib.sha256(vectors.tobytes()).hexdigest())\n"
    )
    argument = SETTINGS[provider].model_dump_json()
    command = [sys.executable, "-c", code, argument]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    vectors = embedder.embed(["cat", "Où est la gare ?"], "document")
    bits = hashlib.sha256(vectors.tobytes()).hexdigest()
    assert done.stdout.splitlines()[-1] == f"{embedder.info.digest} {bits}"


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


def test_threads_get_what_one_would(embedder: Embedder) -> None:
    expected = embedder.embed(TEXTS, "document")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: embedder.embed(TEXTS, "document"), range(8)))
    assert all(np.array_equal(result, expected) for result in results)


def test_closing_is_harmless(provider: str) -> None:
    embedder = create_embedder(SETTINGS[provider])
    embedder.close()
    embedder.close()
