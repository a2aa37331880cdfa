"""Answers grpc.health.v1: whether this node serves, is alive and is ready."""

from __future__ import annotations

from typing import Any, cast

from grpc_health.v1 import health, health_pb2

from peerjob.cluster.role import BackgroundRole
from peerjob.node.node import Node
from peerjob.node.observe.probes import Probe
from peerjob.remote.wire.rpcs import SERVICE

INTERVAL = 0.5
NAMES = ("", SERVICE.full_name)
"""The services that a health check reports as SERVING while the node trusts its lease."""
PROBES = {"liveness": Probe.LIVE, "readiness": Probe.READY}
"""Service in a health check → the Kubernetes probe that decides whether the service is SERVING."""


class HealthReporter(BackgroundRole):
    """Updates the health service from the node's lease and probes."""

    name = "health"

    def __init__(self, node: Node) -> None:
        super().__init__(node.clock)
        self._node = node
        self.servicer = cast(Any, health.aio.HealthServicer())
        self._shown: dict[str, bool] = {}

    async def run(self) -> None:
        while True:
            await self.show()
            await self.pause(INTERVAL)

    async def show(self) -> None:
        """Update the health service now."""
        healthy = self._node.is_healthy
        states = dict.fromkeys(NAMES, healthy) | {name: self._node.probe(probe).ok for name, probe in PROBES.items()}
        for name, good in states.items():
            if self._shown.get(name) is not good:
                status = health_pb2.HealthCheckResponse.SERVING if good else health_pb2.HealthCheckResponse.NOT_SERVING
                await self.servicer.set(name, status)
        self._shown = states

    async def stop(self) -> None:
        """Stop, and report that this node no longer serves."""
        await super().stop()
        await self.servicer.enter_graceful_shutdown()
