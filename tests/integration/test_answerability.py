"""Confidence measured over a real memory."""

from mnemolite.answerability import measure_confidence
from mnemolite.evaluate import Question
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.worker import Worker

TEXTS = {"garden": "We planted tomatoes in the garden.", "office": "The printer jams on Mondays."}


async def test_a_wrong_namespace_is_less_confident(memory: Memory) -> None:
    await memory.add_many(
        [NewEvent(content={"text": text}, namespace=name) for name, text in TEXTS.items()]
    )
    await Worker(memory).drain()
    await memory.settle()
    questions = [Question(text, name, "all", {"d": 1}) for name, text in TEXTS.items()]
    nobody = [Question("Which tomatoes?", "garden", "all", {}), Question("the", "garden", "x", {})]
    asked: list[str] = []
    measured = await measure_confidence(
        memory,
        questions,
        unanswerable=nobody,
        progress=lambda name, *_: asked.append(name),
    )
    assert asked == ["answerable"] * 2 + ["unanswerable"] * 2 + ["wrong_namespace"] * 2
    assert measured["answerable"]["questions"] == 2
    # Of a question without words nothing can be told: it is left out.
    assert measured["unanswerable"]["questions"] == 1
    assert measured["wrong_namespace"]["auc"] == 1
    alone = await measure_confidence(
        memory, questions[:1], unanswerable=[], progress=lambda *_: None
    )
    assert alone["wrong_namespace"] == {"questions": 0, "median": None, "auc": None}
