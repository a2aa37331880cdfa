"""An etcd whose members reach each other through proxies, and a partition of one member."""

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from support.etcd import EtcdCluster, EtcdServer
from support.stalls import Span

from .proxy import FaultProxy

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_LEADS = re.compile(r"(?:became leader|elected leader \w+) at term (\d+)")


class Partition:
    """Cuts one member off from its peers. Clients still reach it."""

    def __init__(self) -> None:
        self._alone: EtcdServer | None = None
        self._known: dict[int, bool] = {}
        self._proxies: list[FaultProxy] = []

    def passes_not(self, member: EtcdServer, source: int) -> bool:
        """Whether a connection to a member, from this port, crosses the partition."""
        if self._alone is None or member is self._alone:
            return self._alone is not None
        if source not in self._known:
            self._known[source] = source in ports_of(self._alone.child.pid)
        return self._known[source]

    @contextlib.contextmanager
    def of(self, member: EtcdServer) -> Generator[None]:
        """This member alone is in the minority."""
        self._known.clear()
        self._alone = member
        try:
            yield
        finally:
            self._alone = None
            for proxy in self._proxies:
                proxy.drop()

    @asynccontextmanager
    async def between(self, cluster: EtcdCluster) -> AsyncGenerator[None]:
        """Put a proxy before the port of each member, before the members start."""
        async with AsyncExitStack() as cleanup:
            for member in cluster.members:
                cut_off = partial(self.passes_not, member)
                proxy = await cleanup.enter_async_context(FaultProxy(member.bus_port, cut_off))
                member.peer_port = proxy.port
                self._proxies.append(proxy)
            yield


def ports_of(pid: int) -> set[int]:
    """The local TCP ports of a process."""
    sockets: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if found := _SOCKET.match(str(entry.readlink())):
                sockets.add(found[1])
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[9] in sockets}


def leader_changes(cluster: EtcdCluster) -> list[Span]:
    """When the members had a new leader, by what they logged."""
    first: dict[int, int] = {}
    for member in cluster.members:
        for log in member.files("log-*"):
            for line in log.read_text(errors="replace").splitlines():
                if found := _LEADS.search(line):
                    moment = datetime.fromisoformat(json.loads(line)["ts"])
                    at_us, term = round(moment.timestamp() * 1_000_000), int(found[1])
                    first[term] = min(first.get(term, at_us), at_us)
    return [(at_us, at_us) for at_us in sorted(first.values())[1:]]  # the first one led from the start
