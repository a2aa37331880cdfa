"""A node with a relay or with transfers in a process of its own, which kills itself at a point of the relay."""

import argparse
import logging
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import uvloop
from sqlalchemy import create_engine

from peerjob import Node
from peerjob.model.record import NewInstance
from peerjob.node.work.outbox import OutboxState, RelayNode
from peerjob.sql import OutboxRelay
from peerjob.sql.databases import EngineDatabase
from peerjob.sql.statements import Connected
from support.outbox_jobs import transfers_of

T = TypeVar("T")

POINTS = ("taking", "taken", "sent", "deleting")
"""Within the transaction that takes rows, after it, after the enqueue, and within the transaction that deletes them."""


def die() -> None:
    """Die like by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingDatabase(EngineDatabase):
    """A database whose process dies at a point of the relay."""

    def __init__(self, engine: Any, point: str) -> None:
        super().__init__(engine)
        self.point = point
        self.has_sent = False

    async def run(self, work: Callable[[Connected], T], executor: Executor | None = None) -> T:
        def and_die(connected: Connected) -> T:
            answer = work(connected)
            if self.point == "taking" and isinstance(answer, list) and answer:
                die()
            if self.point == "deleting" and self.has_sent:
                die()
            return answer

        return await super().run(and_die, executor)

    async def run_one(self, work: Callable[[Connected], T], executor: Executor | None = None) -> T:
        return await self.run(work, executor)  # so that there is a transaction to die in


class DyingNode:
    """What a relay asks of its node, which dies before or after an enqueue."""

    def __init__(self, node: RelayNode, database: DyingDatabase) -> None:
        self._node = node
        self._database = database
        self.clock = node.clock
        self.states = node.states
        self.remember = node.remember
        self.look_aside = node.look_aside
        self.reach = node.reach

    async def send(self, instances: Sequence[NewInstance]) -> list[Exception | None]:
        if self._database.point == "taken":
            die()
        errors = await self._node.send(instances)
        self._database.has_sent = True
        if self._database.point == "sent":
            die()
        return errors


class DyingRelay:
    """A relay whose process dies at a point."""

    def __init__(self, url: str, point: str) -> None:
        self._database = DyingDatabase(create_engine(url), point)
        self._relay = OutboxRelay(self._database)

    async def run(self, node: RelayNode) -> None:
        await self._relay.run(DyingNode(node, self._database))

    async def state(self) -> OutboxState:
        return await self._relay.state()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("namespace")
    parser.add_argument("database")
    parser.add_argument("--point", choices=[*POINTS, "none"], default="none")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="transfer without transact")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    relay = None if given.workers else DyingRelay(given.database, given.point)
    jobs = [transfers_of(given.database, plain=given.plain)] if given.workers else []
    node = Node(given.url, jobs=jobs, namespace=given.namespace, workers=given.workers, lease_ttl=2.0, outbox=relay)
    await node.run(grace=0.2)


if __name__ == "__main__":
    uvloop.run(main())
