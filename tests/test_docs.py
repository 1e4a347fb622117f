"""The documentation names all there is, with its defaults, and its commands run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ByteSize
from pydantic_settings import BaseSettings

from mnemolite import errors, metrics
from mnemolite.app import create_app
from mnemolite.cli import app as cli
from mnemolite.filters import OPERATORS
from mnemolite.filters.parser import LOGICAL
from mnemolite.memory import Memory
from mnemolite.settings import Settings, describe_variables
from tests.acceptance.server import ServerProcess, environment, running_server

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
ADDRESS = "http://127.0.0.1:8000"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(text: str) -> dict[str, list[str]]:
    """The rows of all tables by the code in their first cell."""
    rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line[:1] == "|")
    cells = ([cell.strip() for cell in row] for row in rows)
    return {row[0].strip("`"): row[1:] for row in cells if row and row[0].startswith("`")}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


# --- Settings -----------------------------------------------------------------------------------


def defaults() -> Iterator[tuple[str, str]]:
    """Every variable and its default as the documentation writes it; empty: unset."""
    for group in Settings.model_fields.values():
        assert isinstance(group.annotation, type)
        assert issubclass(group.annotation, BaseSettings)
        for field in group.annotation.model_fields.values():
            assert isinstance(field.json_schema_extra, dict)
            yield str(field.json_schema_extra["env"]), written(field.default)


def written(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, ByteSize):
        return value.human_readable().replace(".0", "")
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    documented = {
        name: "" if cells[0] == "unset" else cells[0].strip("`")
        for name, cells in table(read("docs/settings.md")).items()
    }
    assert documented == dict(defaults())
    assert documented.keys() == describe_variables().keys()


def test_every_setting_is_in_the_example_with_its_default() -> None:
    lines = re.findall(r"^# ([A-Z0-9_]+)=(.*)$", read(".env.example"), flags=re.MULTILINE)
    assert dict(lines) == dict(defaults())


def test_the_example_as_it_stands_changes_nothing() -> None:
    example = read(".env.example")
    assert all(line.startswith("#") for line in example.splitlines() if line)


# --- Command line -------------------------------------------------------------------------------


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, child in inner.items():
        yield from commands(child, f"{path} {name}")


COMMANDS = dict(commands(typer.main.get_command(cli), "mnemolite"))


def section(text: str, heading: str) -> str:
    """What stands between a heading and the next one of any level."""
    _, found, rest = text.partition(f"{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    first_cells = re.findall(
        r"^\|([^|]*)\|", section(read("docs/cli.md"), f"## `{name}`"), flags=re.MULTILINE
    )
    documented = {
        code.split()[0] for cell in first_cells for code in re.findall(r"`([^`]+)`", cell)
    }
    offered = {
        flag
        for parameter in COMMANDS[name].params
        for flag in (
            parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
        )
    }
    assert documented == offered - {"--help"}


def test_no_command_is_documented_that_does_not_exist() -> None:
    headings = re.findall(r"^## `(mnemolite .+)`$", read("docs/cli.md"), flags=re.MULTILINE)
    assert headings == list(COMMANDS)


# --- REST ---------------------------------------------------------------------------------------


async def test_every_route_and_parameter_is_documented(memory: Memory) -> None:
    page = read("docs/rest-api.md")
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in create_app(memory).openapi()["paths"].items()
        for method, operation in methods.items()
    }
    headings = re.findall(r"^### `([A-Z]+ /.*)`$", page, flags=re.MULTILINE)
    assert sorted(headings) == sorted(operations)
    for name, operation in operations.items():
        documented = section(page, f"### `{name}`")
        for parameter in operation.get("parameters", []):
            named = f"`{parameter['name']}`" in documented or parameter["in"] == "path"
            assert named, f"{name}: {parameter['name']}"
        assert blocks(documented, "sh"), f"{name} has no example"


# --- Metrics, errors, filters -------------------------------------------------------------------


def test_every_metric_is_documented_with_its_type() -> None:
    documented = {name: cells[0] for name, cells in table(read("docs/metrics.md")).items()}
    offered = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in metrics.REGISTRY.collect()
    }
    assert documented == offered


def error_classes(kind: type[errors.MnemoliteError]) -> Iterator[type[errors.MnemoliteError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from error_classes(child)


def test_every_error_is_documented_with_its_status_and_meaning() -> None:
    documented = {code: tuple(cells[:2]) for code, cells in table(read("docs/errors.md")).items()}
    offered = {
        kind.code: (str(kind.status), (kind.__doc__ or "").split("\n", 1)[0])
        for kind in error_classes(errors.MnemoliteError)
        if kind.__module__.startswith("mnemolite.errors.")
    }
    assert documented == offered


@pytest.mark.parametrize("operator", sorted({*OPERATORS, *LOGICAL}))
def test_every_filter_operator_is_documented(operator: str) -> None:
    assert re.search(rf"^\|[^|]*`{re.escape(operator)}`", read("docs/filters.md"), re.MULTILINE)


# --- Links --------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for target in targets:
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_in_the_index() -> None:
    index = read("docs/index.md")
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


# --- The commands run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """A server with the packaged model, as `make serve` starts it."""
    variables = {"MNEMO_DATA_DIR": str(folder / "data"), "MNEMO_WEBHOOK_ALLOW_PRIVATE": "true"}
    with running_server(folder, variables=variables) as started:
        event = {"namespace": "travel", "content": "Our ferry to Naxos leaves at seven."}
        with started.client() as client:
            assert client.post("/v1/events", json=event).status_code == 201
        yield started


def run_block(
    command: list[str], block: str, *, folder: Path, url: str
) -> subprocess.CompletedProcess[str]:
    """Run a block of the documentation, its server's address and its folder put in place."""
    text = block.replace(ADDRESS, url).replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = environment(
        MNEMO_DATA_DIR=str(folder / "data"), MNEMO_WEBHOOK_ALLOW_PRIVATE="true", PATH=path
    )
    return subprocess.run(
        [*command, text],
        env=variables,
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def makefile(target: str) -> str:
    """What `make` would run for a target."""
    command = ["make", "--dry-run", "--no-print-directory", "--directory", str(ROOT), target]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=True)
    return done.stdout


def test_the_quick_start_of_the_readme_runs(server: ServerProcess, folder: Path) -> None:
    quick_start = read("README.md").partition("## Quick start")[2].partition("\n## ")[0]
    serve, health, *others = blocks(quick_start, "sh")
    assert serve == "make serve\n"
    assert makefile("serve").split()[-2:] == [".venv/bin/mnemolite", "serve"]
    assert health == "make health\n"
    asked = run_block(
        ["bash", "-euc"],
        f"make --silent --directory {ROOT} health HEALTH_URL={ADDRESS}/health/ready",
        folder=folder,
        url=server.url,
    )
    assert asked.returncode == 0, asked.stderr
    assert '"status":"ok"' in asked.stdout
    outputs = []
    for block in others:
        done = run_block(["bash", "-euc"], block, folder=folder, url=server.url)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        outputs.append(done.stdout)
    assert outputs[0].count("I went to a support group yesterday.") >= 2
    assert '"pending":false' in outputs[0]
    assert "Stored 2 events" in outputs[1]
    assert outputs[1].index("stove.") < outputs[1].index("blue tent")


def test_the_python_of_the_readme_runs(server: ServerProcess, folder: Path) -> None:
    (program,) = blocks(read("README.md"), "python")
    done = run_block([sys.executable, "-W", "error", "-c"], program, folder=folder, url=server.url)
    assert done.returncode == 0, done.stderr
    assert "Our ferry to Naxos leaves at seven." in done.stdout


def test_the_examples_of_the_rest_api_run(server: ServerProcess, folder: Path) -> None:
    examples = blocks(read("docs/rest-api.md"), "sh")
    for example in examples:
        done = run_block(["bash", "-euc"], example, folder=folder, url=server.url)
        assert done.returncode == 0, f"{example}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("example", blocks(read("docs/cli.md"), "sh"))
def test_the_examples_of_the_command_line_run(
    server: ServerProcess, folder: Path, example: str
) -> None:
    import gzip

    line = b'{"scope": "chat", "ts": "2024-07-12T18:30:00Z", "doc_id": "D1:3", "text": "Hello."}'
    (folder / "chat.jsonl.gz").write_bytes(gzip.compress(line))
    document = b'{"doc_id": "d", "text": "Ada likes tea."}'
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(document))
    question = b'{"text": "Who likes tea?", "relevant": {"d": 1}}'
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(question))
    (folder / "saved.jsonl").write_bytes(question)
    for name in ("now.env", "changed.env"):
        (folder / name).write_text("MNEMO_LANGUAGE=english\n")
    done = run_block(["bash", "-euc"], example, folder=folder, url=server.url)
    assert done.returncode == 0, done.stderr
