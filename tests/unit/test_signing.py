"""Signatures: those of Standard Webhooks, and the verification that the documentation shows."""

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.signing import MAX_BYTES, MIN_BYTES, PREFIX, key_of, new_secret, sign

PAGE = Path(__file__).parent.parent.parent / "docs" / "webhooks.md"
ID = "0199c0de-0000-7000-8000-000000000002"


def test_the_signature_is_that_of_the_published_example() -> None:
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        b'{"test": 2432232314}',
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        seconds=1614265330,
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_new_secrets_differ_and_are_long() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert {len(key_of(secret)) for secret in secrets} == {32}


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "hunter2",
        "whsec_hunter2",
        PREFIX + base64.b64encode(b"x" * (MIN_BYTES - 1)).decode(),
        PREFIX + base64.b64encode(b"x" * (MAX_BYTES + 1)).decode(),
        base64.b64encode(b"x" * MIN_BYTES).decode(),
        PREFIX + "ä" * 32,
        PREFIX + "\ud800" * 32,
        PREFIX + base64.b64encode(b"x" * 32).decode() + "\n",
    ],
)
def test_what_is_no_secret_is_refused_without_being_quoted(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^must be whsec_ and the base64") as refused:
        key_of(secret)
    assert "hunter2" not in str(refused.value)


@pytest.fixture(scope="module")
def verify() -> Callable[..., Any]:
    """The receiver's side, as the documentation has it."""
    text = PAGE.read_text(encoding="utf-8")
    (program,) = [
        block
        for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        if "def verify" in block
    ]
    names: dict[str, Any] = {}
    exec(program, names)  # the very text that readers copy
    verify: Callable[..., Any] = names["verify"]
    return verify


def headers(secret: str, body: bytes, *, seconds: int | None = None) -> dict[str, str]:
    seconds = int(time.time()) if seconds is None else seconds
    signature = sign(secret, body, message_id=ID, seconds=seconds)
    return {
        "webhook-id": ID,
        "webhook-timestamp": str(seconds),
        "webhook-signature": signature,
    }


@given(st.binary(max_size=200))
def test_the_documented_verification_takes_what_is_signed(
    verify: Callable[..., Any], body: bytes
) -> None:
    secret = new_secret()
    verify(secret, headers(secret, body), body)
    with pytest.raises(ValueError, match="signature"):
        verify(secret, headers(secret, body), body + b" ")
    with pytest.raises(ValueError, match="signature"):
        verify(secret, headers(new_secret(), body), body)


def test_the_documented_verification_takes_one_of_several_signatures(
    verify: Callable[..., Any],
) -> None:
    secret = new_secret()
    sent = headers(secret, b"{}")
    sent["webhook-signature"] = "v1,AAAA v2,BBBB " + sent["webhook-signature"]
    verify(secret, sent, b"{}")


@pytest.mark.parametrize("off", [-3600, 3600])
def test_the_documented_verification_refuses_another_time(
    verify: Callable[..., Any], off: int
) -> None:
    secret = new_secret()
    with pytest.raises(ValueError, match="old"):
        verify(secret, headers(secret, b"{}", seconds=int(time.time()) + off), b"{}")


def test_the_documented_verification_refuses_what_was_signed_for_another_message(
    verify: Callable[..., Any],
) -> None:
    secret = new_secret()
    with pytest.raises(ValueError, match="signature"):
        verify(secret, headers(secret, b"{}") | {"webhook-id": "another"}, b"{}")
