"""Where webhooks may be sent: to public addresses over HTTPS, and to the networks that the operator allows.

The check is of the address that is connected to, after the name was looked up, so that a name cannot lead to this
machine, its cloud's metadata service or the network behind it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from adapters.errors import BadValue

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOOK_UP_TIMEOUT_S = 5.0
_MAX_PORT = 65535


class DestinationRefused(Exception):
    """The destination is not allowed; the message names no address."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A checked destination: the URL with the address in place of the name, and the name for Host and TLS."""

    url: httpx.URL
    host: str
    name: str


def check_url(text: str, networks: Sequence[Network]) -> str:
    """The URL, as far as it can be checked without a look-up. Raises: BadValue."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise BadValue(
            "The webhook's URL cannot be read; use one such as https://example.com/hook."
        ) from error
    if url.scheme not in (("https", "http") if networks else ("https",)) or not url.host:
        raise BadValue(
            "A webhook's URL begins with https://; http:// is only for receivers in --webhook-networks."
        )
    if url.port is not None and not 1 <= url.port <= _MAX_PORT:
        raise BadValue(f"The webhook's URL has the port {url.port}; use one from 1 to {_MAX_PORT}.")
    if url.userinfo or url.fragment:
        raise BadValue("A webhook's URL has no user, password or fragment; its messages are signed instead.")
    return str(url)


async def resolve(text: str, networks: Sequence[Network]) -> Destination:
    """Look the name up and check all its addresses. Raises: DestinationRefused, OSError, TimeoutError."""
    url = httpx.URL(text)
    loop = asyncio.get_running_loop()
    port = url.port or (443 if url.scheme == "https" else 80)
    async with asyncio.timeout(_LOOK_UP_TIMEOUT_S):
        found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses:
        raise OSError("the name has no address")
    is_internal = [any(address in network for network in networks) for address in addresses]
    if not all(
        internal or is_public(address) for internal, address in zip(is_internal, addresses, strict=True)
    ):
        raise DestinationRefused("its name leads into a network that is not in --webhook-networks")
    if url.scheme != "https" and not all(is_internal):
        raise DestinationRefused("http:// is only for receivers in --webhook-networks")
    host = url.netloc.decode("ascii")
    return Destination(url.copy_with(host=str(addresses[0])), host, url.host)


def is_public(address: Address) -> bool:
    """Whether the address is of the public internet, also the IPv4 address within an IPv6 one."""
    inner: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved
