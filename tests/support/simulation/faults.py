"""The faults of a random program, and when which of them was at work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from peerjob.model.errors import NodeStateError
from peerjob.testing import TestCluster

from .evidence import Absence
from .program import Op

LINGERS_US = 3_000_000
"""How long a fault counts as at work that has no end of its own."""
LASTING = {"kill": "restart", "stop": "restart", "freeze": "thaw", "partition": "heal"}
"""Faults that last until another one ends them."""


class Faults:
    """Does to a cluster what a program says; a fault that cannot be done at that moment is left out."""

    def __init__(self, cluster: TestCluster) -> None:
        self._cluster = cluster
        self.absences: list[Absence] = []
        self._open: dict[tuple[str, str], int] = {}
        """Absence that lasts: why, node → since when."""
        self._until_us: dict[str, int] = {}
        self._starting: set[str] = set()
        self.skew_us = 0

    def at_work(self) -> list[str]:
        """The faults that are at work at this moment."""
        now_us = self._cluster.clock.time_us()
        lasting = {why for why, _ in self._open}
        return sorted(lasting | {fault for fault, until_us in self._until_us.items() if until_us > now_us})

    async def do(self, op: Op) -> str:
        """One fault; answers what came of it in a few words."""
        try:
            verb: Callable[[dict[str, Any]], Awaitable[str]] = getattr(self, f"_{op.verb}")
            return await verb(op.given)
        except NodeStateError as error:
            return f"not possible: {error}"

    async def _kill(self, given: dict[str, Any]) -> str:
        name = self._name(given)
        await self._cluster.kill(name)
        self._ends(name)
        self._begins("kill", name)
        self.absences.append(Absence(node=name, why="killed", from_us=self._now_us()))
        return "killed"

    async def _stop(self, given: dict[str, Any]) -> str:
        name = self._name(given)
        await self._cluster.stop(name, grace=given.get("grace", 1))
        self._ends(name)
        self._begins("stop", name)
        return "stopped"

    async def _restart(self, given: dict[str, Any]) -> str:
        name = self._name(given)
        if name in self._starting:
            return "it starts already"
        self._starting.add(name)
        try:
            await self._cluster.restart(name)
        finally:
            self._starting.discard(name)
        self._open.pop(("kill", name), None)
        self._open.pop(("stop", name), None)
        self._lingers("restart")
        return "started"

    async def _freeze(self, given: dict[str, Any]) -> str:
        name = self._name(given)
        await self._cluster.pause(name)
        self._begins("freeze", name)
        return "frozen"

    async def _thaw(self, given: dict[str, Any]) -> str:
        name = self._name(given)
        await self._cluster.resume(name)
        self._close("freeze", name)
        self._lingers("thaw")
        return "thawed"

    async def _partition(self, given: dict[str, Any]) -> str:
        name = self._name(given)
        await self._cluster.partition(name, from_=given["from_"])
        self._begins("partition", name)
        return f"cut off from {given['from_']}"

    async def _heal(self, given: dict[str, Any]) -> str:
        name = self._name(given)
        await self._cluster.heal(name)
        self._close("partition", name)
        self._lingers("heal")
        return "healed"

    async def _skew(self, given: dict[str, Any]) -> str:
        await self._cluster.skew(self._name(given), given["by"])
        self.skew_us = max(self.skew_us, round(abs(given["by"]) * 1_000_000))
        self._lingers("skew")
        return f"{given['by']} s"

    async def _fail(self, given: dict[str, Any]) -> str:
        await self._cluster.store_fails(given["verb"], times=given["times"], how=given["how"])
        self._lingers(given["how"])
        return ""

    async def _slow(self, given: dict[str, Any]) -> str:
        await self._cluster.slow(given["verb"], given["by"])
        self._lingers("slow")
        return ""

    # -- when

    def close(self) -> None:
        """End every absence."""
        for why, name in list(self._open):
            self._close(why, name)

    def _begins(self, why: str, name: str) -> None:
        self._open.setdefault((why, name), self._now_us())

    def _close(self, why: str, name: str) -> None:
        since_us = self._open.pop((why, name), None)
        if since_us is not None and why in ("freeze", "partition"):
            self.absences.append(
                Absence(
                    node=name,
                    why="paused" if why == "freeze" else "cut off",
                    from_us=since_us,
                    until_us=self._now_us(),
                )
            )

    def _ends(self, name: str) -> None:
        for why in ("freeze", "partition"):
            self._close(why, name)

    def _lingers(self, fault: str) -> None:
        self._until_us[fault] = self._now_us() + LINGERS_US

    def _now_us(self) -> int:
        return self._cluster.clock.time_us()

    @staticmethod
    def _name(given: dict[str, Any]) -> str:
        return f"node-{given['node'] + 1}"
