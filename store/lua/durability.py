"""The option `durability`: what a call waits for, beyond the server's answer, before its caller hears "done".

WAIT and WAITAOF tell how far the writes of their own connection have come, so one goes out in the same write as the
scripts, behind them, on a connection that nobody shares meanwhile. They count from the connection's last *write*: a
script that finds its work done already, by a call whose answer was lost or not confirmed, writes nothing, and would be
confirmed at once, whatever became of that work. So `confirm.lua`, between them, always writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from peerjob.model.durations import to_seconds
from peerjob.model.errors import OptionError

from .script import Argument, Reply

DEFAULT_TIMEOUT = 3.0
"""With `appendfsync everysec`, a write may have to wait for the disk for two seconds."""
MAX_TIMEOUT = 60.0
_REPLICAS = re.compile(r"replicas:([1-9]\d{0,2})", re.ASCII)
_ONLINE = re.compile(r"\bstate=online\b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Durability:
    """Who has to have a write, and for how long that is waited for."""

    replicas: int
    """How many replicas; 0: the disk of the server itself."""
    timeout: float
    """Seconds."""

    @property
    def text(self) -> str:
        """As it is written in a URL."""
        return f"replicas:{self.replicas}" if self.replicas else "aof"

    @property
    def who(self) -> str:
        if not self.replicas:
            return "the server's append-only file"
        return "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"

    @property
    def command(self) -> tuple[Argument, ...]:
        """What answers once it is so, or the time is over."""
        timeout_ms = max(1, round(self.timeout * 1000))
        return ("WAIT", self.replicas, timeout_ms) if self.replicas else ("WAITAOF", 1, 0, timeout_ms)

    def missing(self, reply: Reply) -> str:
        """What the answer leaves to be desired; "" if it confirms all that was written."""
        if isinstance(reply, Exception):
            return f"{self.who} did not confirm it: {reply}"
        reached: int = reply if self.replicas else reply[0]
        if reached >= (self.replicas or 1):
            return ""
        found = f" ({reached} did)" if self.replicas > 1 else ""
        return f"{self.who} did not confirm it within {self.timeout:g} s{found}"


def parse_durability(text: str | None, timeout: str | None) -> Durability | None:
    """Read the options of a URL; raises OptionError."""
    if text is None:
        if timeout is not None:
            raise OptionError("store option 'durability_timeout'", timeout, "durability beside it")
        return None
    match = _REPLICAS.fullmatch(text)
    if match is None and text != "aof":
        raise OptionError("store option 'durability'", text, "aof or replicas:<number>")
    seconds = DEFAULT_TIMEOUT if timeout is None else to_seconds(timeout, "store option 'durability_timeout'")
    if not 0 < seconds <= MAX_TIMEOUT:
        raise OptionError("store option 'durability_timeout'", timeout, f"more than 0 and at most {MAX_TIMEOUT:g} s")
    return Durability(replicas=0 if match is None else int(match[1]), timeout=seconds)


def online_replicas(info: Mapping[str, str]) -> int:
    """How many replicas are connected and caught up."""
    return sum(
        name[5:].isdecimal() and _ONLINE.search(text) is not None for name, text in info.items() if name[:5] == "slave"
    )


def unfit(durability: Durability, info: Mapping[str, str], config: Mapping[str, str]) -> str | None:
    """Why the server, as it is set up, can never confirm what is asked for."""
    if durability.replicas:
        return None  # they come and go
    if not info:
        return "the server must tell how it keeps data, and this user may not ask it for INFO"
    if info.get("aof_enabled") != "1":
        return "the server keeps no append-only file; set appendonly yes"
    policy = config.get("appendfsync", "everysec")
    if policy == "always" or (policy == "everysec" and _tells_the_truth(info)):
        return None
    if policy == "everysec":
        return "this server says that data is on disk before it is, unless appendfsync is always; set that"
    return f"with appendfsync {policy}, the server does not know what is on disk; set always or everysec"


def _tells_the_truth(info: Mapping[str, str]) -> bool:
    """Whether WAITAOF under `everysec` waits for the disk.

    Redis 7.2.2 to 7.4 and every Valkey so far (8.1.1 and 9.1.2 were traced) answer at the server's next idle moment:
    https://github.com/redis/redis/pull/13793
    """
    return "valkey_version" not in info and int(info.get("redis_version", "0").split(".")[0]) >= 8
