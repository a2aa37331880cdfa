"""A Redis or Valkey server for one test, stores on it, and a connection that loses answers."""

import asyncio
import contextlib
import struct
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from peerjob.model.clock import Clock, SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.lua.client.driver import prefix
from peerjob.store.lua.store import LuaStore, lua_store
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer
from support.servers import Server, through_glide


@dataclass
class Site:
    """A server for one test, and stores on it."""

    server: Server
    cleanup: AsyncExitStack
    namespace: str = field(default_factory=lambda: f"faults-{uuid.uuid4().hex[:8]}")
    make: Factory = field(default_factory=lambda: Factory(SystemClock()))

    async def open(
        self,
        *,
        retry_for: float = 30.0,
        limits: StoreLimits | None = None,
        url: str | None = None,
        clock: Clock | None = None,
    ) -> LuaStore:
        store = lua_store(
            url or self.server.url,
            namespace=self.namespace,
            clock=clock or SystemClock(),
            limits=limits or StoreLimits(),
            retry_for=retry_for,
        )
        await store.open()
        self.cleanup.push_async_callback(store.close)
        return store

    async def join(self, store: LuaStore, ttl_us: int = LONG_TTL_US, kinds: Sequence[str] = ("work",)) -> Peer:
        peer = Peer(store=store, info=self.make.node(kinds=kinds), make=self.make)
        self.cleanup.push_async_callback(peer.close)
        return await peer.join(ttl_us)

    async def behind_proxy(self) -> tuple["CuttingProxy", str]:
        """A proxy before the server, and the server's URL through it; ends after the stores that are opened later."""
        proxy = await self.cleanup.enter_async_context(CuttingProxy(self.server.port))
        return proxy, self.server.url.replace(str(self.server.port), str(proxy.port))

    def key(self, rest: str) -> str:
        return prefix(self.namespace) + rest

    def all_keys(self) -> set[str]:
        found = self.server.command("KEYS", "*")
        assert isinstance(found, list)
        return {str(key) for key in found}

    def dump(self) -> dict[str, str]:
        """The value of every key as a digest of the server, independent of the order of a hash."""
        keys = sorted(self.all_keys())
        digests = self.server.command("DEBUG", "DIGEST-VALUE", *keys)
        assert isinstance(digests, list)
        return dict(zip(keys, map(str, digests), strict=True))

    @contextlib.contextmanager
    def foreign(self, rest: str) -> Generator[None]:
        """A context in which a foreign value replaces a key."""
        key = self.key(rest)
        self.server.command("COPY", key, f"{key}-saved", "REPLACE")
        self.server.command("DEL", key)
        self.server.command("SET", key, "foreign")
        yield
        self.server.command("DEL", key)
        if self.server.command("EXISTS", f"{key}-saved"):
            self.server.command("RENAME", f"{key}-saved", key)


MakeSite = Callable[..., Site]

with_each_driver = pytest.mark.parametrize("site", ["redis", "valkey+glide"], indirect=True)
"""For faults of a client: the scripts behave the same on Redis and Valkey, as the conformance suite shows."""
with_each_driver_and_server = pytest.mark.parametrize("site", ["redis", "valkey", "valkey+glide"], indirect=True)
"""For texts of a server that a driver reads: Redis and Valkey may word an error differently."""
with_each_driver_to_a_cluster = pytest.mark.parametrize(
    ("server_cluster", "as_url"),
    [("redis", str), ("valkey", through_glide)],
    indirect=["server_cluster"],
    ids=["redis", "valkey+glide"],
)
"""For calls of a driver to a cluster; `as_url` makes its URL from that of the cluster or of a shard."""


class CuttingProxy:
    """Passes bytes on to a server, and on request drops the connection instead of the next answers.

    Its clients end first (see `Site.behind_proxy`): asyncio forgets the socket of who connects while a server closes.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._serving: set[asyncio.Task[None]] = set()
        self.cuts = 0
        self.port = 0

    async def __aenter__(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for one in self._serving:
            one.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        # also when it is cancelled before its first step, and so runs none of its own clean-up
        serving.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._server_port)

        async def upstream() -> None:
            while data := await reader.read(65536):
                to_writer.write(data)
            to_writer.close()

        pump = asyncio.create_task(upstream())
        try:
            while data := await to_reader.read(65536):
                if self.cuts > 0:
                    self.cuts -= 1
                    break
                writer.write(data)
        finally:
            pump.cancel()
            for one in (to_writer, writer):
                one.close()
            for one in (to_writer, writer):
                with contextlib.suppress(OSError):
                    await one.wait_closed()


def first_layout_record(
    *, kind: str = "work", key: str = "", at_us: int = 1, slot: str = "", result: bytes = b""
) -> bytes:
    """A Scheduled instance, byte for byte as the first release wrote it; with a slot as in later releases."""

    def sized(*texts: bytes) -> bytes:
        return b"".join(struct.pack(">I", len(text)) + text for text in texts)

    flags = (2 if key else 0) + (4 if result else 0) + (64 if slot else 0)
    numbers = struct.pack(">BBBHidddIIIIdII", 1, 2, flags, 2, 5, at_us, 0, at_us, 0, 0, 0, 3, -1, 0, 0)
    past = b"".join(struct.pack(">BdI", state, at_us, 1) + sized(b"node", b"") for state in (1, 2))
    options = sized(key.encode(), b"", result, b"", b"") if flags else b""
    return numbers + sized(kind.encode(), b"", past) + options + (sized(slot.encode()) if slot else b"")
