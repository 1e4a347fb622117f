"""How confidence is measured: which questions, and the area under the curve."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.answerability import auc, misplaced, read_unanswerable
from mnemolite.evaluate import Question

CONFIDENCES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=20)


def test_area_by_hand() -> None:
    assert auc([0.9, 0.8], [0.1, 0.2]) == 1
    assert auc([0.1], [0.9]) == 0
    assert auc([0.5, 0.9], [0.5, 0.1]) == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert auc([], [0.1]) is None
    assert auc([0.1], []) is None


@given(CONFIDENCES, CONFIDENCES)
def test_area_is_the_share_of_pairs_in_order(one: list[float], other: list[float]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in one for b in other]
    assert auc(one, other) == pytest.approx(sum(pairs) / len(pairs))


def test_every_question_is_misplaced_once() -> None:
    questions = [Question(name, name, "all", {"d": 1}) for name in "cab"]
    assert [(one.text, one.namespace) for one in misplaced(questions)] == [
        ("c", "a"),
        ("a", "b"),
        ("b", "c"),
    ]
    assert misplaced(questions[:1]) == []


def test_the_unanswerable_are_those_that_say_so(tmp_path: Path) -> None:
    rows = [
        {"text": "yes", "relevant": {"d": 1}},
        {"text": "no", "scope": "s", "answerable": False, "relevant": {"d": 1}},
        {"text": "unknown", "relevant": {}},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [(one.text, one.namespace) for one in read_unanswerable(path)] == [("no", "s")]
