"""The OpenAPI document: valid, and complete enough to write a client from it alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import validate
from pydantic import TypeAdapter

from mnemolite import errors
from mnemolite.api.problems import MEDIA_TYPE, Problem
from mnemolite.app import create_app
from mnemolite.memory import Memory

Operation = tuple[str, dict[str, Any]]
OPEN_ROUTE = "GET /health/live"
# Their 503 is the health itself, which says more than a problem would.
HEALTH_ROUTES = {"GET /health", "GET /health/ready"}


@pytest.fixture
async def document(memory: Memory) -> dict[str, Any]:
    openapi: dict[str, Any] = create_app(memory).openapi()
    return openapi


@pytest.fixture
async def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def error_classes(kind: type[errors.MnemoliteError]) -> Iterator[type[errors.MnemoliteError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from error_classes(child)


def examples_of(media: dict[str, Any]) -> list[Any]:
    single = [media["example"]] if "example" in media else []
    return single + [entry["value"] for entry in media.get("examples", {}).values()]


def problems_of(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The failing answers that are described as problems, by status."""
    for status, response in operation["responses"].items():
        if MEDIA_TYPE in response.get("content", {}):
            yield status, response


async def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


async def test_every_operation_says_what_it_does(operations: list[Operation]) -> None:
    for name, operation in operations:
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["operationId"], name


async def test_every_parameter_is_described(operations: list[Operation]) -> None:
    for name, operation in operations:
        for parameter in operation.get("parameters", []):
            described = parameter.get("description") or parameter["schema"].get("description")
            assert described or parameter["in"] == "path", f"{name}: {parameter['name']}"


async def test_every_success_has_an_example(operations: list[Operation]) -> None:
    for name, operation in operations:
        successes = {s: r for s, r in operation["responses"].items() if s.startswith("2")}
        assert successes, name
        for status, response in successes.items():
            if status == "204":
                assert "content" not in response, name
                continue
            for media in response["content"].values():
                assert examples_of(media), f"{name} {status}"


async def test_every_request_body_has_an_example(
    operations: list[Operation], document: Any
) -> None:
    for name, operation in operations:
        if "requestBody" not in operation:
            continue
        (media,) = operation["requestBody"]["content"].values()
        schema = media["schema"]
        named = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
        assert examples_of(media) or schema.get("examples") or named.get("examples"), name


async def test_every_error_is_a_problem_and_has_an_example_for_each_code(
    operations: list[Operation],
) -> None:
    statuses = {kind.code: kind.status for kind in error_classes(errors.MnemoliteError)}
    read_problem = TypeAdapter(Problem).validate_python
    for name, operation in operations:
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                continue
            if name in HEALTH_ROUTES and status == "503":
                assert examples_of(response["content"]["application/json"]), name
                continue
            assert list(response["content"]) == [MEDIA_TYPE], f"{name} {status}"
            examples = response["content"][MEDIA_TYPE]["examples"]
            assert examples, f"{name} {status}"
            for code, example in examples.items():
                problem = read_problem(example["value"])
                assert (problem.code, str(problem.status)) == (code, status), name
                assert statuses[code] == problem.status, name


async def test_every_operation_lists_what_can_go_wrong(operations: list[Operation]) -> None:
    for name, operation in operations:
        if name == OPEN_ROUTE:
            continue
        codes = {
            code
            for _, response in problems_of(operation)
            for code in response["content"][MEDIA_TYPE]["examples"]
        }
        expected = {"unauthorized"}
        if name not in HEALTH_ROUTES:
            expected |= {"database_unavailable", "database_busy", "database_timeout"}
        if "requestBody" in operation:
            expected |= {"unsupported_media_type"}
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            expected |= {"malformed_json", "payload_too_large"}
        else:
            assert "malformed_json" not in codes, name
        if "requestBody" in operation or operation.get("parameters"):
            expected |= {"invalid_input"}
        assert expected <= codes, f"{name} lacks {expected - codes}"


async def test_the_security_schemes_are_named(
    operations: list[Operation], document: dict[str, Any]
) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme.get("in")) for scheme in schemes.values()} == {
        ("http", None),
        ("apiKey", "header"),
    }
    for name, operation in operations:
        needed = {scheme for entry in operation.get("security", []) for scheme in entry}
        assert needed == (set() if name == OPEN_ROUTE else set(schemes)), name
