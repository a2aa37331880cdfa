"""The option `durability`: a confirmation that a call waits for, after the server's answer.

WAIT and WAITAOF tell how far the writes of their own connection have come. So the command goes out in the same write as
the scripts, behind them, on a connection that no other call shares meanwhile. Both count from the last *write* of the
connection. A script that finds its work done by an earlier call writes nothing, and would be confirmed at once, even if
that work is not durable. So `confirm.lua` runs between them and always writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from peerjob.model.durations import to_seconds
from peerjob.model.errors import OptionError
from peerjob.store.lua.scripts.script import Argument, Reply

DEFAULT_TIMEOUT = 3.0
"""Seconds. With `appendfsync everysec`, the server can need two seconds to write to the disk."""
MAX_TIMEOUT = 60.0
_REPLICAS = re.compile(r"replicas:([1-9]\d{0,2})", re.ASCII)
_ONLINE = re.compile(r"\bstate=online\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Durability:
    """Where a write must be before a call returns, and how long the call waits for it."""

    replicas: int
    """The number of replicas that must confirm a write. 0: the disk of the server must confirm."""
    timeout: float
    """Seconds that a call waits for the confirmation."""

    @property
    def text(self) -> str:
        """The option as in a URL."""
        return f"replicas:{self.replicas}" if self.replicas else "aof"

    @property
    def confirmer(self) -> str:
        """The confirming part, for messages."""
        if not self.replicas:
            return "the server's append-only file"
        return "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"

    @property
    def command(self) -> tuple[Argument, ...]:
        """The command that answers when the write is there, or after the timeout."""
        timeout_ms = max(1, round(self.timeout * 1000))
        return ("WAIT", self.replicas, timeout_ms) if self.replicas else ("WAITAOF", 1, 0, timeout_ms)

    def missing(self, reply: Reply) -> str:
        """The missing confirmation; "" if the answer confirms all writes."""
        if isinstance(reply, Exception):
            return f"{self.confirmer} did not confirm it: {reply}"
        reached: int = reply if self.replicas else reply[0]
        if reached >= (self.replicas or 1):
            return ""
        number = f" ({reached} did)" if self.replicas > 1 else ""
        return f"{self.confirmer} did not confirm it within {self.timeout:g} s{number}"


def parse_durability(text: str | None, timeout: str | None) -> Durability | None:
    """Read the options of a URL; raises OptionError."""
    if text is None:
        if timeout is not None:
            raise OptionError("store option 'durability_timeout'", timeout, "durability too")
        return None
    match = _REPLICAS.fullmatch(text)
    if match is None and text != "aof":
        raise OptionError("store option 'durability'", text, "aof or replicas:<number>")
    seconds = DEFAULT_TIMEOUT if timeout is None else to_seconds(timeout, "store option 'durability_timeout'")
    if not 0 < seconds <= MAX_TIMEOUT:
        raise OptionError("store option 'durability_timeout'", timeout, f"more than 0 and at most {MAX_TIMEOUT:g} s")
    return Durability(replicas=0 if match is None else int(match[1]), timeout=seconds)


def online_replicas(info: Mapping[str, str]) -> int:
    """The number of replicas that are connected and up to date."""
    return sum(
        name[5:].isdecimal() and _ONLINE.search(text) is not None for name, text in info.items() if name[:5] == "slave"
    )


def obstacle(durability: Durability, info: Mapping[str, str], config: Mapping[str, str]) -> str | None:
    """Return the setting because of which the server can never confirm a write, or None if the server can."""
    if durability.replicas:
        # A missing replica is no obstacle: replicas can connect later.
        return None
    if not info:
        return "the server must say how it keeps data, but this user may not ask it for INFO"
    if info.get("aof_enabled") != "1":
        return "the server keeps no append-only file; set appendonly yes"
    policy = config.get("appendfsync", "everysec")
    if policy == "always" or (policy == "everysec" and _waits_for_disk(info)):
        return None
    if policy == "everysec":
        return "with appendfsync everysec, this server confirms data that is not on disk yet; set appendfsync always"
    return f"with appendfsync {policy}, the server does not know what is on disk; set always or everysec"


def _waits_for_disk(info: Mapping[str, str]) -> bool:
    """Return whether WAITAOF waits for the disk if the server has `appendfsync everysec`.

    Redis 7.2.2 to 7.4 and all Valkey versions so far (8.1.1 and 9.1.2 were traced) answer when the server is idle:
    https://github.com/redis/redis/pull/13793
    """
    return "valkey_version" not in info and int(info.get("redis_version", "0").split(".")[0]) >= 8
