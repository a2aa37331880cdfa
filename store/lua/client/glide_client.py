"""One valkey-glide client, standalone or of a cluster.

GLIDE's types of commands and answers are recursive, which the type checkers do not follow: hence `Any`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import glide.glide_client
from glide import (
    AdvancedGlideClientConfiguration,
    AdvancedGlideClusterClientConfiguration,
    BackoffStrategy,
    Batch,
    BatchOptions,
    BatchRetryStrategy,
    ClusterBatch,
    ClusterBatchOptions,
    GlideClient,
    GlideClientConfiguration,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    NodeAddress,
    ProtocolVersion,
    RequestError,
    ServerCredentials,
    SlotKeyRoute,
    SlotType,
    TlsAdvancedConfiguration,
)

from peerjob.store.lua.scripts.script import Argument
from peerjob.store.url import Host

from .address import Address, Tls

RECONNECT = BackoffStrategy(num_of_retries=5, factor=20, exponent_base=2)
"""GLIDE tries to reconnect without end. GLIDE waits up to 20 ms at first, and doubles the limit up to 640 ms."""


class GlideConnection:
    """A connection to the server, or to each server of the cluster."""

    def __init__(self, client: Any, *, route: SlotKeyRoute | None) -> None:
        self._client = client
        self._route = route

    async def send(self, commands: Sequence[Sequence[Argument]], *, timeout: float | None = None) -> list[Any]:
        """Send commands in one write; the answers include the server's errors as values.

        `timeout`, in seconds, is for several commands; by default it is that of the client.
        """
        texts: list[Any] = [
            [part if isinstance(part, str | bytes) else str(part) for part in command] for command in commands
        ]
        if self._route is not None:
            # Send even one command as a batch: GLIDE sends a single command again after an error, and so could run a
            # write twice.
            return await self._batch(ClusterBatch(is_atomic=False), texts, self._cluster_options(timeout))
        if len(texts) > 1:
            return await self._batch(Batch(is_atomic=False), texts, BatchOptions(timeout=_milliseconds(timeout)))
        try:
            return [await self._client.custom_command(texts[0])]
        except RequestError as error:
            if type(error) is not RequestError:
                raise
            return [error]

    def _cluster_options(self, timeout: float | None) -> ClusterBatchOptions:
        return ClusterBatchOptions(
            timeout=_milliseconds(timeout),
            route=self._route,
            retry_strategy=BatchRetryStrategy(retry_server_error=False, retry_connection_error=False),
        )

    async def _batch(self, batch: Any, texts: list[Any], options: Any) -> list[Any]:
        for text in texts:
            batch.custom_command(text)
        return cast("list[Any]", await self._client.exec(batch, raise_on_error=False, options=options))

    async def close(self) -> None:
        """Drop the connection at once."""
        await self._client.close()


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


async def connect(
    address: Address, hosts: Sequence[Host], *, key: str, call_timeout: float, connect_timeout: float
) -> GlideConnection:
    """A client that connects with its first command, so that its creation never blocks the event loop.

    In a cluster, its commands go to the primary that serves `key`.
    """
    common: dict[str, Any] = {
        "addresses": [NodeAddress(host.name, host.port) for host in hosts],
        "use_tls": address.tls is not None,
        "credentials": ServerCredentials(address.password, address.username or None) if address.password else None,
        "request_timeout": round(call_timeout * 1000),
        "reconnect_strategy": RECONNECT,
        "client_name": "peerjob",
        "protocol": ProtocolVersion.RESP2,
        "lazy_connect": True,
    }
    advanced: dict[str, Any] = {"connection_timeout": round(connect_timeout * 1000)}
    if address.tls is not None:
        advanced["tls_config"] = _tls_config(address.tls)
    if address.cluster:
        common["advanced_config"] = AdvancedGlideClusterClientConfiguration(**advanced)
        clustered = await GlideClusterClient.create(GlideClusterClientConfiguration(**common))
        return GlideConnection(clustered, route=SlotKeyRoute(SlotType.PRIMARY, key))
    common |= {"database_id": address.db, "advanced_config": AdvancedGlideClientConfiguration(**advanced)}
    return GlideConnection(await GlideClient.create(GlideClientConfiguration(**common)), route=None)


def _tls_config(tls: Tls) -> TlsAdvancedConfiguration:
    return TlsAdvancedConfiguration(
        use_insecure_tls=not tls.verify,
        root_pem_cacerts=tls.ca_certs.read_bytes() if tls.ca_certs else None,
        client_cert_pem=tls.cert_file.read_bytes() if tls.cert_file else None,
        client_key_pem=tls.key_file.read_bytes() if tls.key_file else None,
    )


# GLIDE hands over each answer by a pipe, as an address in the memory of the parent. Releases before the pipe lack the
# function.
_leave_pipe = getattr(glide.glide_client, "_detect_fork_and_reset", None)
if _leave_pipe is not None and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_pipe)
