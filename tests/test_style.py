"""The limits on size, and the rule on broad excepts, that no linter checks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "mnemolite").rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 400, 40
# The worker's loop, and the handler of what nobody foresaw.
MAY_CATCH_ALL = {"worker.py", "app.py"}

each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def catches_all(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) == "Exception" for kind in caught)


@each_source
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES


@each_source
def test_functions_are_short(path: Path) -> None:
    functions = (n for n in nodes(path) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    lines = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    assert {name: n for name, n in lines.items() if n > MAX_FUNCTION_LINES} == {}


@each_source
def test_broad_excepts_are_few_and_explained(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler) and catches_all(node):
            assert path.name in MAY_CATCH_ALL, f"line {node.lineno} catches everything"
            above_and_below = lines[node.lineno - 1 : node.body[0].lineno]
            assert any("#" in line for line in above_and_below), f"line {node.lineno}: why?"
