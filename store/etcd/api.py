"""The only module that uses gRPC and the messages of etcd, both of which lack type annotations.

etcd3aio has the generated messages in a private module. Its client is not used: it repeats writes, accepts only IP
addresses, and sends calls to members that do not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any, Protocol, cast

from peerjob.model.child_tasks import cancelled_after
from peerjob.model.grpc_import import begin_grpc, import_grpc, owned

from .address import EtcdAddress


def _loaded() -> tuple[Any, Any]:
    import_grpc()
    import etcd3aio._protobuf
    import grpc  # type: ignore[import-untyped,unused-ignore]

    return etcd3aio._protobuf, cast("Any", grpc)


etcd, grpc = _loaded()
"""`etcd` has the generated messages and stubs, named as in etcd's rpc.proto; `grpc` is the library."""
aio: Any = grpc.aio
codes: Any = grpc.StatusCode
Metadata = tuple[tuple[str, str], ...]

_OPTIONS: tuple[tuple[str, int], ...] = (
    # The answer to a range can be larger than 4 MiB, the default limit of gRPC.
    ("grpc.max_receive_message_length", -1),
    # gRPC must not repeat a write: etcd would apply the write twice.
    ("grpc.enable_retries", 0),
    # Each channel has its own connection. Otherwise, lease renewals would share the connection of the store.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # etcd accepts at most one ping in 5 s, and only while a stream is open.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


_TXN = "/etcdserverpb.KV/Txn"


class Unary(Protocol):
    """A method with one reply."""

    def __call__(self, request: Any, *, timeout: float, metadata: Metadata) -> Awaitable[Any]: ...


class EtcdEndpoint:
    """One member, over a connection that is opened at its first use."""

    def __init__(self, target: str, address: EtcdAddress, certificates: Sequence[bytes | None]) -> None:
        begin_grpc()
        self.target = target
        self._loop = asyncio.get_running_loop()
        if address.tls:
            ca, cert, key = certificates
            channel = aio.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert), options=_OPTIONS)
        else:
            channel = aio.insecure_channel(target, options=_OPTIONS)
        self._channel = owned(channel)
        lease = etcd.LeaseStub(self._channel)
        self.txn: Unary = self._channel.unary_unary(_TXN, response_deserializer=etcd.TxnResponse.FromString)
        """The call for transactions. Requests are bytes that `wire` has encoded, which is faster than messages."""
        self.grant: Unary = lease.LeaseGrant
        self.revoke: Unary = lease.LeaseRevoke
        self.remaining: Unary = lease.LeaseTimeToLive
        self.status: Unary = etcd.MaintenanceStub(self._channel).Status
        self.authenticate: Unary = etcd.AuthStub(self._channel).Authenticate
        self._keepalive: Any = lease.LeaseKeepAlive
        self._watch: Any = etcd.WatchStub(self._channel).Watch

    async def keepalive(self, request: Any, *, timeout: float, metadata: Metadata) -> Any:
        """Extend a lease once; etcd offers only a stream for it."""
        stream = self._keepalive(timeout=timeout, metadata=metadata)
        with cancelled_after(stream):
            return await _first_reply(stream, [request])

    async def watch(self, requests: Sequence[Any], *, metadata: Metadata) -> AsyncGenerator[Any]:
        """The replies of some watches, until the server ends their stream."""
        stream = self._watch(metadata=metadata)
        with cancelled_after(stream):
            reply = await _first_reply(stream, requests)
            while reply is not aio.EOF:
                yield reply
                reply = await stream.read()

    async def close(self) -> None:
        """End the connection and all calls on it.

        If its event loop was closed, gRPC cannot cancel the calls. It ends the connection with the channel object.
        """
        if not self.is_loop_closed:
            await self._channel.close()

    @property
    def is_loop_closed(self) -> bool:
        """Whether its event loop was closed: then gRPC can make no call."""
        return self._loop.is_closed()


async def _first_reply(stream: Any, requests: Sequence[Any]) -> Any:
    # If the stream has failed, the write raises InvalidStateError, and the read below raises the reason.
    with contextlib.suppress(asyncio.InvalidStateError):
        for request in requests:
            await stream.write(request)
    return await stream.read()
