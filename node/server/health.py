"""Tells whoever asks by grpc.health.v1 whether this node serves: while its lease is trusted."""

from __future__ import annotations

from typing import Any, cast

from grpc_health.v1 import health, health_pb2

from peerjob.cluster.role import Role
from peerjob.node.node import Node

from .rpc import SERVICE

INTERVAL = 0.5
NAMES = ("", SERVICE.full_name)


class HealthReporter(Role):
    """Keeps the health service at what the node's lease says; the store must have answered for it to be trusted."""

    name = "health"

    def __init__(self, node: Node) -> None:
        super().__init__(node.clock)
        self._node = node
        self.servicer = cast(Any, health.aio.HealthServicer())
        self._shown: bool | None = None

    async def run(self) -> None:
        while True:
            await self.show(self._node.is_healthy)
            await self.pause(INTERVAL)

    async def show(self, healthy: bool) -> None:
        """Tell this from now on."""
        if healthy is self._shown:
            return
        self._shown = healthy
        status = health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in NAMES:
            await self.servicer.set(name, status)

    async def stop(self) -> None:
        """Stop, and tell that this node serves no more."""
        await super().stop()
        await self.servicer.enter_graceful_shutdown()
