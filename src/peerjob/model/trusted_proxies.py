"""The address of a caller, also behind proxies that a server trusts.

A proxy adds the address of its own caller to the end of X-Forwarded-For. What stands before it came from that caller,
which may have made it up. So the list is read from its end, as long as each address is that of a trusted proxy.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

from .arguments import several
from .errors import OptionError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HEADER = "x-forwarded-for"
LOOPBACK = ("127.0.0.0/8", "::1")
_IPV6_PREFIX = 64
"""The bits of an IPv6 address that name a network. A caller can choose the others for each connection."""
_MAX_KEPT = 1024
"""Most addresses that are kept parsed, since each call of a server needs that of its caller several times."""
_MAX_KEPT_TEXT = 64
"""Most characters of a text that is kept. Longer ones come from callers that make up X-Forwarded-For."""
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""IPv4 addresses in the form of IPv6 addresses."""


class TrustedProxies:
    """Addresses and networks whose X-Forwarded-For counts. Raises OptionError for `option`, with the bad value."""

    def __init__(self, given: Iterable[str] = (), option: str = "trusted_proxies") -> None:
        wanted = "addresses or networks in a list, such as 10.0.0.7 or 10.0.0.0/8"
        self._networks = tuple(_network(option, text) for text in several(option, given, str, wanted))

    def trusts(self, address: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        parsed = _address(address) if self._networks else None
        return parsed is not None and self._includes(parsed)

    def caller_of(self, peer: str, forwarded: Iterable[str]) -> str:
        """The address of a caller: that of the connection, or the one that a trusted proxy gives in `forwarded`."""
        if not self.trusts(peer):
            return peer
        known = peer
        for text in reversed(",".join(forwarded).split(",")):
            parsed = _address(text)
            if parsed is None:
                break  # no proxy writes this, so the addresses before it count as little
            known = str(parsed)
            if not self._includes(parsed):
                break
        return known

    def _includes(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def network_of(address: str) -> str:
    """What counts as one caller of all connections from an address: the address, or the network of an IPv6 address."""
    return _network_of(address) if len(address) <= _MAX_KEPT_TEXT else _network_of.__wrapped__(address)


@functools.lru_cache(maxsize=_MAX_KEPT)
def _network_of(address: str) -> str:
    parsed = _address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and not parsed.is_loopback:
        return str(ipaddress.ip_network((int(parsed), _IPV6_PREFIX), strict=False))
    return address if parsed is None else str(parsed)


def _network(option: str, text: str) -> Network:
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise OptionError(option, text, f"an address or a network, such as 10.0.0.7 or 10.0.0.0/8 ({error})") from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        network = ipaddress.ip_network(
            (int(network.network_address) & 0xFFFFFFFF, network.prefixlen - _MAPPED.prefixlen)
        )
    if not network.prefixlen:
        raise OptionError(option, text, "fewer than all addresses: each caller could name any address as its own")
    return network


def _address(text: str) -> Address | None:
    """The address in a text, which may have a port; None if there is none. A zone is left out: it can be any text."""
    return _parsed(text) if len(text) <= _MAX_KEPT_TEXT else _parsed.__wrapped__(text)


@functools.lru_cache(maxsize=_MAX_KEPT)
def _parsed(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, ipaddress.IPv6Address) else parsed
