"""Parses addresses to listen on: "host:port"."""

from __future__ import annotations

import ipaddress

from .errors import OptionError

GRPC_PORT = 59051
"""The default port on which a node serves gRPC."""
FREE_ADDRESS = "an address of this machine that no other program listens on"
"""What a server expects of its address when it starts."""


def parse_listen(option: str, listen: str, *, example: int) -> tuple[str, int]:
    """Split an address into host and port; raises OptionError that names `option` and shows a port as `example`."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise OptionError(option, listen, f"host:port, such as 127.0.0.1:{example} or [::1]:{example}")
    return host, int(port)


def address_not_free(option: str, address: str, reason: str = "") -> OptionError:
    """The error of a server that cannot listen on an address."""
    return OptionError(option, address, f"{FREE_ADDRESS}{f' ({reason})' if reason else ''}")


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
