"""Addresses to listen on, as they are given: "host:port"."""

from __future__ import annotations

import ipaddress

from peerjob.model.errors import OptionError

GRPC_PORT = 59051
"""Where nodes are looked for when no port is given."""


def parse_listen(option: str, listen: str, *, example: int) -> tuple[str, int]:
    """Host and port; raises OptionError, which names the option and shows an example with that port."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise OptionError(option, listen, f"host:port, such as 127.0.0.1:{example} or [::1]:{example}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
