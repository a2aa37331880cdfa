"""Instances, nodes and peers for tests of stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from peerjob.model.clock import Clock
from peerjob.model.durable import Need, Step, Wait
from peerjob.model.ids import IdSource
from peerjob.model.record import (
    MAX_BATCH,
    Ack,
    Action,
    Claim,
    Claimed,
    LogLine,
    NewInstance,
    NodeInfo,
    Outcome,
    Renewed,
    Want,
)
from peerjob.model.state import Level
from peerjob.store.base import Liveness, Store
from peerjob.store.rules import READS_LAYOUT, digest

LONG_TTL_US = 600_000_000


class InstanceOptions(TypedDict, total=False):
    """Fields of NewInstance that a test may set."""

    id: str
    kind: str
    spec: bytes
    priority: int
    due_us: int | None
    delay_us: int | None
    key: str | None
    tags: tuple[str, ...]
    retention_us: int | None
    max_crashes: int
    attempts: int
    crashes: int
    losses: int
    limit_key: str
    key_concurrency: int


class OutcomeOptions(TypedDict, total=False):
    """Fields of Outcome that a test may set."""

    result: bytes | None
    error: bytes | None
    progress: bytes | None
    started: bool
    delay_us: int
    note: str
    logs: tuple[LogLine, ...]
    steps: tuple[Step, ...]
    needs: tuple[Need, ...]
    wait: Wait | None
    linked: bool


class Factory:
    """Makes values with fresh ids from one clock."""

    def __init__(self, clock: Clock) -> None:
        self._ids = IdSource(clock)

    def id(self, at_us: int | None = None) -> str:
        """Make a UUIDv7; with `at_us`, one of that millisecond."""
        fresh = self._ids.one()
        if at_us is None:
            return fresh
        head = f"{at_us // 1000:012x}"
        return f"{head[:8]}-{head[8:]}{fresh[13:]}"

    def request(self) -> str:
        """Make a request id."""
        return self._ids.one()

    def instance(self, **options: Unpack[InstanceOptions]) -> NewInstance:
        """Make an instance, by default of kind "work" and due now."""
        given: InstanceOptions = {"id": self._ids.one(), "kind": "work", "spec": b"spec", **options}
        return NewInstance(**given)  # pyright: ignore[reportArgumentType]  # `given` has id, kind and spec

    def instances(self, count: int, **options: Unpack[InstanceOptions]) -> list[NewInstance]:
        """Make several equal instances with ascending ids."""
        return [self.instance(**options) for _ in range(count)]

    def node(self, name: str = "node", kinds: Sequence[str] = ("work",)) -> NodeInfo:
        """Make the description of a node with a new incarnation."""
        return NodeInfo(
            name=name,
            incarnation=self._ids.one(),
            kinds=tuple(kinds),
            signatures=dict.fromkeys(kinds, "hash"),
            workers=10,
            host="host",
            pid=1,
            reads_layout=READS_LAYOUT,
        )

    def line(self, message: str, level: Level = Level.INFO) -> LogLine:
        """Make a log line."""
        return LogLine(at_us=1, level=level, message=message, attempt=1, node="node")


def outcome(claim: Claim, action: Action = Action.COMPLETE, **options: Unpack[OutcomeOptions]) -> Outcome:
    """Make the outcome that the owner of a claim reports."""
    given: OutcomeOptions = {"linked": claim.linked, **options}
    return Outcome(id=claim.id, fence=claim.fence, action=action, **given)


@dataclass(kw_only=True)
class Peer:
    """A node as a store sees it: an incarnation that claims, commits and renews."""

    store: Store
    info: NodeInfo
    make: Factory
    joined_us: int = 0
    """The store's time when the node joined, in microseconds."""
    _liveness: Liveness | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The node's name."""
        return self.info.name

    @property
    def incarnation(self) -> str:
        """Id of this start of the node."""
        return self.info.incarnation

    async def join(self, ttl_us: int = LONG_TTL_US, previous: str | None = None) -> Peer:
        """Join the store and return itself."""
        self.joined_us = await self.store.join(self.info, ttl_us=ttl_us, previous=previous)
        return self

    def want(
        self,
        limit: int = MAX_BATCH,
        kinds: Mapping[str, int] | None = None,
        *,
        suspects: bool = True,
        idle: bool = True,
    ) -> Want:
        """Ask for at most `limit` instances of any of the node's kinds, or of the kinds given."""
        wanted = dict.fromkeys(self.info.kinds, limit) if kinds is None else kinds
        return Want(kinds=wanted, limit=limit, suspects=suspects, idle=idle)

    async def claim(self, want: Want | None = None, *, request: str | None = None) -> Claimed:
        """Claim instances, by default with a new request id."""
        return await self.store.claim(self.incarnation, want or self.want(), request=request or self.make.request())

    async def take(self, limit: int = MAX_BATCH) -> tuple[Claim, ...]:
        """Claim up to `limit` instances; the incarnation must be alive."""
        claimed = await self.claim(self.want(limit))
        assert not claimed.dead
        return claimed.claims

    async def take_one(self) -> Claim:
        """Claim the first instance."""
        (claim,) = await self.take(1)
        return claim

    async def commit(self, *outcomes: Outcome, request: str | None = None) -> list[Ack]:
        """Commit outcomes, by default with a new request id."""
        return await self.store.commit(self.incarnation, outcomes, request=request or self.make.request())

    async def end(self, claim: Claim, action: Action = Action.COMPLETE, **options: Unpack[OutcomeOptions]) -> Ack:
        """Commit one outcome."""
        (ack,) = await self.commit(outcome(claim, action, **options))
        return ack

    async def report(self, claim: Claim, **options: Unpack[OutcomeOptions]) -> Ack:
        """Report without a change of state: a start, progress, log lines."""
        return await self.end(claim, Action.REPORT, **options)

    async def suspend(self, claim: Claim, until: Wait, **options: Unpack[OutcomeOptions]) -> Ack:
        """End the run; the instance then waits."""
        given: OutcomeOptions = {**options, "wait": until}
        return await self.end(claim, Action.SUSPEND, **given)

    async def renew(self, *held: Claim, ttl_us: int = LONG_TTL_US) -> Renewed:
        """Renew the lease, with these claims held."""
        if self._liveness is None:
            liveness = self.store.liveness()
            await liveness.open()
            self._liveness = liveness
        fences = [claim.fence for claim in held]
        return await self._liveness.renew(
            self.incarnation,
            ttl_us=ttl_us,
            running=len(fences),
            count=len(fences),
            fences_digest=digest(fences),
        )

    async def close(self) -> None:
        """Release the connection of the lease."""
        if self._liveness is not None:
            await self._liveness.close()
