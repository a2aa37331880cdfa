"""What the engine needs of a client library: run scripts, pop hints, ask the server about itself.

A driver never sends anything twice by itself. Whatever can be cured by trying again later (no connection, no answer
in time, a server that loads, fails over or moves slots) it raises as StoreUnavailableError, which `edge` retries; a
server that is out of memory is StoreFullError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from peerjob.store.layout import check_layout

from .keys import namespace_of
from .script import Script

Argument = str | bytes | int
Call = tuple[Script, Sequence[Argument]]
Reply = Any
"""Bytes, integers, None, or lists of them, as the script's header tells."""

CONNECT_TIMEOUT = 4.0
CALL_TIMEOUT = 5.0
AWAY = (
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOREPLICAS",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
)
"""Error codes that pass by themselves."""
ELSEWHERE = "Script attempted to access a non local key"
"""What a script meets instead of TRYAGAIN while its slot moves; ours then have written nothing."""

_LAYOUT = re.compile(r"\bLAYOUT:? (\S+)")
"""Each library words an error of a script in its way."""

_DEMOTED = re.compile(r"\b(READONLY|ReadOnly|UNBLOCKED)\b|read only replica")

NO_CLUSTER = "the server at {url} is one of a cluster: add ?cluster=true to the URL"


class Driver(Protocol):
    """A client of one server or cluster, for one namespace, on one event loop."""

    @property
    def url(self) -> str:
        """Where it leads, with credentials redacted."""
        ...

    async def open(self) -> None:
        """Connect, so that a wrong address shows at once."""
        ...

    async def run(self, *calls: Call) -> list[Reply]:
        """Run scripts in this order, sent in one write where the library can."""
        ...

    async def run_durably(self, *calls: Call) -> tuple[list[Reply], str]:
        """As `run`, and wait for what the URL's `durability` asks for.

        The second answer tells what was not confirmed in time, if anything: all of it is written even so. To be sure,
        the same calls are sent again: confirming alone could speak of another server, to which these never came.
        """
        ...

    async def pop(self, key: str, most: int, timeout: float) -> list[bytes]:
        """Wait for elements of a list and take them off its head; [] after `timeout` seconds."""
        ...

    async def info(self) -> Mapping[str, str]:
        """The fields of INFO; none where we may not ask."""
        ...

    async def config(self, pattern: str) -> Mapping[str, str]:
        """The settings that match a pattern; none where we may not ask."""
        ...

    async def close(self) -> None:
        """Release every connection; idempotent."""
        ...


def check_refusal(message: str, *, prefix: str, url: str) -> None:
    """Raise LayoutError for the error of a script that met another layout."""
    found = _LAYOUT.search(message)
    if found is not None:
        check_layout(found[1], namespace=namespace_of(prefix), url=url)


def is_demoted(message: str) -> bool:
    """Whether the server's error says that it is no primary any more: each connection to it must go.

    One address may lead to a new primary while connections to the old one stay open.
    """
    return _DEMOTED.search(message) is not None


def passes_by_itself(message: str) -> bool:
    """Whether the server's error is one that a later try will not meet."""
    code = message.split(" ", 1)[0].split(":", 1)[0]
    return code in AWAY or ELSEWHERE in message
