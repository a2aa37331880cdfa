"""The verbs about the other nodes: list their kinds, drain or resize a node, let it take work again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from operator import attrgetter
from typing import Any

from peerjob.handles.registered_job import RegisteredJob
from peerjob.model.clock import to_datetime
from peerjob.model.descriptor import DescribedRecurrence
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import NodeStateError, OptionError, UnknownNodeError
from peerjob.model.job import Job
from peerjob.model.limits import MAX_NODE_NAME, checked_text
from peerjob.model.listed import listed
from peerjob.model.policy import Policy
from peerjob.model.record import Instruction, NodeView

from .kind_rules import ListedKind
from .limits import NodeLimitManager

POLL = 0.25
"""Seconds between two reads of the nodes, while a call waits for another node to follow an instruction."""
MAX_FOLLOW = 15.0
"""Most seconds until another node follows an instruction. A live node gets the instruction with each renewal.

A client waits by long polls of 20 s, and for `undrain` 30 s. A later poll of a drain takes the drain as begun.
"""


class NodeClusterManager(NodeLimitManager):
    """The verbs of a node for the nodes of its cluster, and for limits."""

    async def registered_jobs(self, kind: str | None = None, *, schemas: bool = False) -> list[RegisteredJob]:
        self._remember_registered()
        listed = {listed_kind.kind: listed_kind for listed_kind in await self._need_runtime().catalogue.listed(kind)}
        jobs = [_own(job, self._registered_us[job.kind]) for job in self.jobs() if kind in (None, job.kind)]
        jobs += [_other(listed_kind) for listed_kind in listed.values() if self.find_job(listed_kind.kind) is None]
        jobs.sort(key=attrgetter("kind"))
        return [_completed(job, listed.get(job.kind), schemas=schemas) for job in jobs]

    async def drain(self, timeout: Duration | None = None, *, node: str | None = None) -> str:
        seconds = None if timeout is None else to_seconds(timeout, "timeout")
        return await self.wait_drained(seconds, node=node, is_begun=False)

    async def wait_drained(self, seconds: float | None, *, node: str | None, is_begun: bool) -> str:
        """Like `drain`. With `is_begun`, an earlier call has begun the drain, and this call only waits."""
        runtime = self._need_runtime()
        async with self._passing(seconds):
            other = None if node is None else await self._other_node(node)
            if other is None:
                await runtime.drain(seconds, is_begun=is_begun)
                return self.name
            if not is_begun:
                await self._instruct(other, drain=True)
            try:
                async with asyncio.timeout(seconds):
                    await self._until_intake(other, "drained", has_begun=is_begun)
            except TimeoutError:
                raise TimeoutError(f"node {other.name!r} is not drained after {seconds:g} s; it still drains") from None
            return other.name

    async def undrain(self, *, node: str | None = None) -> str:
        runtime = self._need_runtime()
        async with self._passing(None):
            other = None if node is None else await self._other_node(node)
            if other is None:
                await runtime.undrain()
                return self.name
            await self._instruct(other, drain=False)
            await self._until_intake(other, "active")
            return other.name

    async def _other_node(self, node: str) -> NodeView | None:
        """The live node with this name or incarnation; None for this node itself."""
        checked_text("node", node, MAX_NODE_NAME)
        live = await self._open_store().nodes()
        matching = [view for view in live if node in (view.name, view.info.incarnation)]
        if not matching:
            raise UnknownNodeError(node, [view.name for view in live])
        if len(matching) > 1:
            incarnations = listed(view.info.incarnation for view in matching)
            raise OptionError("node", node, f"the name of one node: {len(matching)} nodes have it (use {incarnations})")
        return None if matching[0].info.incarnation == self._need_runtime().incarnation else matching[0]

    async def _resize_other(self, view: NodeView, workers: int) -> None:
        await self._instruct(view, drain=view.intake != "active", workers=workers)
        began = asyncio.get_running_loop().time()
        async with self._passing(None):
            while (await self._present(view)).info.workers != workers:
                self._check_follows(view, began)
                await asyncio.sleep(POLL)

    async def _instruct(self, view: NodeView, *, drain: bool, workers: int = 0) -> None:
        if not view.intake:
            raise NodeStateError(
                f"node {view.name!r} runs release {view.info.version}, which takes no instructions from other nodes; "
                "call it through its own address"
            )
        instruction = Instruction(request=self._need_runtime().ids.one(), drain=drain, workers=workers)
        store = self._open_store()
        if not await store.instruct(view.info.incarnation, instruction):
            raise UnknownNodeError(view.name, [node.name for node in await store.nodes()])

    async def _until_intake(self, view: NodeView, intake: str, *, has_begun: bool = False) -> None:
        """Wait until the list of nodes shows that another node has followed an instruction."""
        began = asyncio.get_running_loop().time()
        while True:
            now = (await self._present(view)).intake
            if now == intake:
                return
            if intake == "drained" and now == "draining":
                has_begun = True
            elif has_begun:
                raise NodeStateError(f"node {view.name!r} takes work again: its drain has ended")
            else:
                self._check_follows(view, began)
            await asyncio.sleep(POLL)

    async def _present(self, view: NodeView) -> NodeView:
        """Read a live node again; raises UnknownNodeError."""
        live = await self._open_store().nodes()
        for node in live:
            if node.info.incarnation == view.info.incarnation:
                return node
        raise UnknownNodeError(view.name, [node.name for node in live])

    def _check_follows(self, view: NodeView, began: float) -> None:
        """Raise NodeStateError for a node that follows no instruction for too long."""
        if asyncio.get_running_loop().time() - began > MAX_FOLLOW:
            raise NodeStateError(f"node {view.name!r} has not followed the call within {MAX_FOLLOW:g} s; repeat it")


def _own(job: Job[..., Any, Any], registered_us: int) -> RegisteredJob:
    policy, timing = job.policy, job.timing
    return RegisteredJob(
        kind=job.kind,
        description=job.description,
        registered_at=to_datetime(registered_us),
        priority=policy.priority,
        max_retries=policy.max_retries,
        timeout=None if policy.timeout is None else timedelta(seconds=policy.timeout),
        cron=job.options.get("cron"),
        every=None if timing.every_us is None else timedelta(microseconds=timing.every_us),
        timezone=timing.timezone,
        schedule_at=None if timing.at_us is None else to_datetime(timing.at_us).isoformat(),
        tags=policy.tags,
        aliases=job.aliases,
        version=job.version,
        runs_here=job.executor is not None,
    )


def _other(listed: ListedKind) -> RegisteredJob:
    """A job whose code is on other nodes."""
    descriptor = listed.descriptor
    recurrence = descriptor.recurrence or DescribedRecurrence()
    return RegisteredJob(
        kind=listed.kind,
        description=descriptor.description,
        registered_at=None,
        priority=Policy.priority if descriptor.priority is None else descriptor.priority,
        max_retries=descriptor.max_retries,
        timeout=None if descriptor.timeout is None else timedelta(seconds=descriptor.timeout),
        cron=recurrence.cron,
        every=None if recurrence.every_us is None else timedelta(microseconds=recurrence.every_us),
        timezone=recurrence.timezone,
        schedule_at=None,
        tags=descriptor.tags or (),
        aliases=(),
        version=descriptor.version,
        runs_here=False,
    )


def _completed(job: RegisteredJob, listed: ListedKind | None, *, schemas: bool) -> RegisteredJob:
    """A job with what live nodes publish about its kind."""
    if listed is None:
        return job
    schema = listed.schema.decode(errors="replace") if schemas and listed.schema else None
    signature, nodes = listed.descriptor.signature, listed.nodes
    return replace(job, signature=signature, nodes=nodes, node_count=listed.node_count, json_schema=schema)
