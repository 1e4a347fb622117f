"""Addresses that others name: none that leads inside is taken, however it is written."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.addresses import Target, is_public, parse_target, resolve
from mnemolite.errors import ForbiddenAddressError, InvalidInputError, UnknownHostError

INSIDE = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/29", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
    "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",
    "::/128", "::1/128", "::/96", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    "2001::/32", "2001:db8::/32", "2002::/16",
]  # fmt: skip
OUTSIDE = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::1"]


@st.composite
def addresses_inside(draw: st.DrawFn) -> str:
    network = ipaddress.ip_network(draw(st.sampled_from(INSIDE)))
    number = draw(st.integers(0, network.num_addresses - 1))
    return str(network[number])


@given(addresses_inside())
def test_no_address_inside_is_public(address: str) -> None:
    assert not is_public(address)


@given(addresses_inside())
def test_no_ipv4_address_inside_is_public_in_the_clothes_of_ipv6(address: str) -> None:
    one = ipaddress.ip_address(address)
    if isinstance(one, ipaddress.IPv4Address):
        for prefix in ("::ffff:0:0", "64:ff9b::", "::"):
            assert not is_public(str(ipaddress.IPv6Address(prefix) + int(one)))
        assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) + (int(one) << 80))))


@pytest.mark.parametrize("address", OUTSIDE)
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", OUTSIDE[:3])
def test_public_addresses_are_behind_a_gateway_too(address: str) -> None:
    number = int(ipaddress.IPv4Address(address))
    assert is_public(str(ipaddress.IPv6Address("64:ff9b::") + number))
    assert is_public(str(ipaddress.IPv6Address("::ffff:0:0") + number))


@pytest.mark.parametrize("text", ["", "localhost", "fe80::1%eth0", "1.2.3", "8.8.8.8 "])
def test_what_is_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)


@given(st.ip_addresses())
def test_what_is_public_is_global(address: Any) -> None:
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", Target("https", "example.com", 443, "/")),
        ("http://EXAMPLE.com:8080/a?b=c", Target("http", "example.com", 8080, "/a?b=c")),
        ("https://bücher.example/ä?ö=ü", Target("https", "xn--bcher-kva.example", 443,
                                                "/%C3%A4?%C3%B6=%C3%BC")),
        ("http://[::1]:9/x", Target("http", "::1", 9, "/x")),
        ("https://example.com/%41%2f", Target("https", "example.com", 443, "/%41%2f")),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart(url: str, target: Target) -> None:
    assert parse_target(url) == target


def test_an_address_is_put_together_with_the_checked_one() -> None:
    assert parse_target("https://example.com/a?b").at("1.1.1.1") == "https://1.1.1.1:443/a?b"
    assert parse_target("http://example.com:81").at("2606::1") == "http://[2606::1]:81/"
    assert parse_target("http://[::1]:9").authority == "[::1]:9"
    assert parse_target("https://example.com:443").authority == "example.com"


BAD = [
    "", "example.com", "//example.com", "ftp://example.com", "file:///etc/passwd", "https://",
    "javascript:alert(1)", "https:///path", "https://user:hunter2@example.com",
    "https://hunter2@example.com", "https://@example.com", "https://example.com:0",
    "https://example.com:99999", "https://example.com:x", "https://exa mple.com",
    "https://example.com\\@127.0.0.1", "https://example.com/\r\nHost: x", "https://example.com\x00",
    "https://[::1", "https://[fe80::1%25eth0]/", "https://[1.2.3.4]", "https://ex..ample",
    "https://" + "a" * 64 + ".com", "https://" + "a." * 200 + "com", "https://example.com#x",
    "https://example.com/\ud800", "https://\ud800.com", "https://exam%70le.com",
    "https://example.com/" + "x" * 2000, "https://" + "a-" * 900,
]  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_address_of_a_target_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_target(url)
    assert refused.value.field == "url"
    assert refused.value.remedy
    assert "hunter2" not in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"http://example.com{text}"):
        try:
            target = parse_target(url)
        except InvalidInputError:
            continue
        assert target.host
        assert target.path.startswith("/")
        assert target.path.isascii()


LOOPBACK = [
    "http://127.0.0.1", "http://localhost", "http://[::1]", "http://[::ffff:127.0.0.1]",
    "http://2130706433", "http://0x7f000001", "http://127.1", "http://0", "http://0177.0.0.1",
    "http://\uff11\uff12\uff17.0.0.1", "http://169.254.169.254/latest/meta-data",
    "http://10.0.0.1", "http://192.168.1.1:8080", "http://[fd00::1]", "http://[64:ff9b::7f00:1]",
]  # fmt: skip


@pytest.mark.parametrize("url", LOOPBACK)
async def test_hosts_inside_are_refused_however_they_are_written(url: str) -> None:
    with pytest.raises((ForbiddenAddressError, UnknownHostError)) as refused:
        await resolve(parse_target(url), allow_private=False)
    assert refused.value.field == "url"


async def test_hosts_inside_are_taken_when_that_is_allowed() -> None:
    target = parse_target("http://127.0.0.1:8080")
    assert await resolve(target, allow_private=True) == ["127.0.0.1"]


async def test_a_host_that_does_not_exist_is_unknown() -> None:
    with pytest.raises(UnknownHostError):
        await resolve(parse_target("http://nowhere.invalid"), allow_private=True)
