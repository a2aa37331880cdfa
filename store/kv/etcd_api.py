"""What we use of gRPC and of etcd's API, neither of which brings types.

etcd3aio has the generated messages in a private module, so they are touched here alone. Of its client we use nothing:
that one sends writes again, knows addresses by number only, and spreads calls over members that do not answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, cast

import etcd3aio._protobuf
import grpc as _grpc  # type: ignore[import-untyped,unused-ignore]

from .etcd_address import EtcdAddress

etcd: Any = etcd3aio._protobuf
"""The messages and stubs, by their names in etcd's rpc.proto."""
grpc: Any = cast("Any", _grpc)
aio: Any = grpc.aio
codes: Any = grpc.StatusCode
Metadata = tuple[tuple[str, str], ...]

_OPTIONS: tuple[tuple[str, int], ...] = (
    # a range may answer with more than gRPC's 4 MiB
    ("grpc.max_receive_message_length", -1),
    # the second try of a write is not ours to make
    ("grpc.enable_retries", 0),
    # else the connection for renewals would be that of the store
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # etcd takes no more than one in 5 s, and none without a stream
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


class Unary(Protocol):
    """A method that answers once."""

    def __call__(self, request: Any, *, timeout: float, metadata: Metadata) -> Awaitable[Any]: ...


class Endpoint:
    """One member, over a connection that is made when it is first used."""

    def __init__(self, target: str, address: EtcdAddress, certificates: Sequence[bytes | None]) -> None:
        self.target = target
        if address.tls:
            ca, cert, key = certificates
            credentials = grpc.ssl_channel_credentials(ca, key, cert)
            self.channel = aio.secure_channel(target, credentials, options=_OPTIONS)
        else:
            self.channel = aio.insecure_channel(target, options=_OPTIONS)
        lease = etcd.LeaseStub(self.channel)
        self.txn: Unary = etcd.KVStub(self.channel).Txn
        self.grant: Unary = lease.LeaseGrant
        self.revoke: Unary = lease.LeaseRevoke
        self.remaining: Unary = lease.LeaseTimeToLive
        self.status: Unary = etcd.MaintenanceStub(self.channel).Status
        self.authenticate: Unary = etcd.AuthStub(self.channel).Authenticate
        self.keepalive: Any = lease.LeaseKeepAlive
        self.watch: Any = etcd.WatchStub(self.channel).Watch
