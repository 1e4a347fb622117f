"""`mnemolite tail` as somebody at a terminal uses it."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.server import command, environment, run


@pytest.fixture
def variables(dsn: str) -> dict[str, str]:
    return {"DATABASE_URL": dsn}


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Tests in the background of a shell are told to ignore SIGINT, and so is what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def tailing(
    *arguments: str, folder: Path, variables: dict[str, str]
) -> Iterator["subprocess.Popen[str]"]:
    """A running command that has begun to follow."""
    pipe = subprocess.PIPE
    with (
        heeding_interrupts(),
        subprocess.Popen(
            command("tail", *arguments),
            env=environment(**variables),
            cwd=folder,
            text=True,
            stdout=pipe,
            stderr=pipe,
        ) as process,
    ):
        try:
            assert process.stderr is not None
            while "Ctrl-C ends it" not in process.stderr.readline():
                assert process.poll() is None
            yield process
        finally:
            process.kill()


def test_it_follows_until_it_is_interrupted(
    tmp_path: Path, dsn: str, variables: dict[str, str]
) -> None:
    arguments = ("--all", "--after", "start")
    with (
        tailing(*arguments, folder=tmp_path, variables=variables) as process,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        assert process.stdout is not None
        connection.execute(
            "INSERT INTO events (namespace, session, content) VALUES "
            """('n', 's', '{"role": "user", "text": "\\u001b[31mred\\n[bold]ink[/]"}')"""
        )
        line = process.stdout.readline()
        assert line[8:] == " added    n/s user: \N{REPLACEMENT CHARACTER}[31mred [bold]ink[/]\n"
        connection.execute('UPDATE events SET metadata = \'{"ink": "é"}\'')
        assert process.stdout.readline().endswith('[bold]ink[/] {"ink": "é"}\n')
        connection.execute("DELETE FROM events")
        assert " deleted  n " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_it_prints_json_to_go_on_from(tmp_path: Path, dsn: str, variables: dict[str, str]) -> None:
    once = ("tail", "--no-follow", "--json")
    # A database that was copied from another one begins with an empty feed.
    assert run(*once, cwd=tmp_path, variables=variables).stdout == ""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number in range(3):
            connection.execute(
                """INSERT INTO events (content, metadata)
                VALUES ('{"text": "x"}', jsonb_build_object('n', %s::int))""",
                [number],
            )
    listed = run(*once, "--after", "start", cwd=tmp_path, variables=variables)
    first, second, third = map(json.loads, listed.stdout.splitlines())
    assert [change["event"]["metadata"] for change in (first, second, third)] == [
        {"n": 0},
        {"n": 1},
        {"n": 2},
    ]
    arguments = ("--after", first["cursor"], "--where", '{"n": {"$gt": 1}}', "--kinds", "added")
    listed = run(*once, *arguments, cwd=tmp_path, variables=variables)
    assert [json.loads(line) for line in listed.stdout.splitlines()] == [third]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--after", "yesterday"), "after: must be now, start, a time"),
        (("--after", "00000000-1-1"), "cursor_gone"),
        (("--kinds", "moved"), "invalid_input"),
        (("--where", "{"), "--where"),
    ],
)
def test_a_wrong_option_is_said(
    tmp_path: Path, variables: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    ended = run("tail", *arguments, cwd=tmp_path, variables=variables)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
