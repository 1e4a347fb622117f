"""Addresses that others name and this process is to call: parsed, resolved, and checked.

Whoever may name an address could otherwise make this process speak to what only it can reach: the
machine itself, its private network, the metadata service of a cloud.
"""

import asyncio
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, urlsplit

from mnemolite.errors import ForbiddenAddressError, InvalidInputError, UnknownHostError

MAX_URL = 2000

# Their own, for a name server that hangs must not take the threads that all others share.
_RESOLVERS = ThreadPoolExecutor(16, thread_name_prefix="resolve")
_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_FORBIDDEN_LETTERS = re.compile(r"[\x00-\x20\x7f\\]")
# Kept as they are; what is not ASCII is written as %XX.
_SAFE = "%/:=&?~+!$,;'@()*[]-._"
# The last 32 bits are an IPv4 address, to which a gateway passes on what is sent (RFC 6052).
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_LAST_32_BITS = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of an HTTP address."""

    scheme: str
    host: str  # a name, or an address without brackets
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """Host and port as the header ``Host`` names them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, address: str) -> str:
        """The same address with one of the host's IP addresses in place of its name."""
        host = f"[{address}]" if ":" in address else address
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_target(url: str) -> Target:
    """Take an address apart. Raises InvalidInputError, which does not quote the address."""
    if len(url) > MAX_URL or _FORBIDDEN_LETTERS.search(url):
        raise _bad(f"An address has at most {MAX_URL} characters, and no blank or backslash.")
    try:
        parts = urlsplit(url)
        port = parts.port
        named = parts.hostname or ""
        host = named if ":" in named else named.encode("idna").decode().lower()
        path = quote(parts.path or "/", safe=_SAFE)
        query = quote(parts.query, safe=_SAFE)
    except (ValueError, UnicodeError):
        raise _bad("This is not an address.") from None
    if parts.scheme not in _PORTS:
        raise _bad("The address must begin with http:// or https://.")
    if parts.username is not None or parts.password is not None:
        raise _bad("The address must hold no user name or password.", _SIGNED)
    if parts.fragment:
        raise _bad("The address must hold no fragment.")
    if port == 0 or not _is_host(host):
        raise _bad("The address names no valid host and port.")
    default = _PORTS[parts.scheme]
    return Target(parts.scheme, host, port or default, f"{path}?{query}" if query else path)


async def resolve(target: Target, *, allow_private: bool) -> list[str]:
    """The IP addresses of a host, in the order in which to try them.

    Raises UnknownHostError, and ForbiddenAddressError if one of them is not public: a name that
    leads to both kinds is no better than one that leads inside alone.
    """
    loop = asyncio.get_running_loop()
    look = partial(socket.getaddrinfo, target.host, target.port, type=socket.SOCK_STREAM)
    try:
        found = await loop.run_in_executor(_RESOLVERS, look)
    except (OSError, UnicodeError):
        raise UnknownHostError(f"{target.host} cannot be resolved.", field="url") from None
    addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
    for address in [] if allow_private else addresses:
        if not is_public(address):
            raise ForbiddenAddressError(
                f"{target.host} leads to {address}, which is not a public address.",
                field="url",
                remedy="Name a public host, or set MNEMO_WEBHOOK_ALLOW_PRIVATE=true.",
            )
    return addresses


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public Internet, and of one receiver."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if inside := _ipv4_inside(address):
            return is_public(str(inside))
        # Old ways to an IPv4 address that nobody can be checked to be behind.
        if address.is_site_local or address.sixtofour or address.teredo:
            return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


def _ipv4_inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: a mapped or a translated one."""
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & _LAST_32_BITS)
    return address.ipv4_mapped


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _NAME.fullmatch(host) is not None
    try:
        return "%" not in host and bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


_SIGNED = "The signature of a request says who sends it; see docs/webhooks.md."


def _bad(detail: str, remedy: str | None = None) -> InvalidInputError:
    remedy = remedy or "Write it as https://host/path."
    return InvalidInputError(detail, field="url", remedy=remedy)
