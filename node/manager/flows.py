"""Flows: the verbs that schedule and repeat them, and the job that runs them on each node with workers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Annotated, Any, cast
from uuid import UUID

from msgspec import structs

from peerjob.handles.context import Context
from peerjob.handles.durable_run import DurableRun
from peerjob.handles.flow_instance import FlowInstance
from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.codec import encode_value
from peerjob.model.durable import FLOW_MADE, MAX_STEP_BYTES, Step, StepPage
from peerjob.model.errors import ArgumentError, DecodeError, FlowFailed, OptionError
from peerjob.model.flow import Flow
from peerjob.model.graph import (
    KEPT,
    Graph,
    decode_graph,
    decode_members,
    encode_kept,
    kept_results,
    member_id,
    needs_of,
    read_overrides,
)
from peerjob.model.ids import checked_new_id
from peerjob.model.injected import INJECTED
from peerjob.model.job import Call, flow_job
from peerjob.model.query import Query
from peerjob.model.record import MAX_BATCH, NewChild, NewInstance
from peerjob.model.secret import Secret
from peerjob.model.spec import Spec, encode
from peerjob.model.state import State
from peerjob.node.work.references import MAX_READ, kept_of
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT

from .flow_encoder import FlowEncoder
from .retries import NodeRetryManager

COPIED = "copied"
"""The step of a repeated flow that says which results it keeps: all those in the steps before."""
MAX_KEPT_STEPS = 15
"""Most steps with kept results. Members whose results do not fit run again."""
_OVERHEAD = 16
"""Most bytes of a number and of the size of a result."""
_MAX_CHUNK = MAX_STEP_BYTES - 64
_UNFINISHED = State.CREATED | State.ACTIVE


class NodeFlowManager(NodeRetryManager):
    """The verbs of a node for flows."""

    async def schedule_flow(
        self, flow: Flow, *, tags: Iterable[str] = (), id: str | UUID | None = None
    ) -> FlowInstance:
        runtime = self._need_runtime()
        given = "" if id is None else checked_new_id(id, self.clock.time_us(), "id")
        graph, arguments = await self._encoded(flow)
        for member in flow:
            self._adopt([member.call.job])
        await self._admit({member.call.job.kind for member in flow})
        await self._store.require_layout(FLOWS_LAYOUT, "flows")
        priority = min((member.call.job.policy.priority for member in flow), default=FLOW_JOB.policy.priority)
        job = FLOW_JOB.with_options(tags=list(tags), priority=priority)
        made = await self._schedule_call(runtime, Call(job, (flow.name, graph, arguments), {}), given)
        return FlowInstance.of(made)

    async def _encoded(self, flow: Flow) -> tuple[bytes, bytes]:
        """The stored form of a flow. Before it is refused, kinds whose code is elsewhere are read anew."""
        kinds = {member.call.job.kind for member in flow if self._is_elsewhere(member.call.job)}
        if kinds:
            await self._prepare(kinds)
            with contextlib.suppress(ArgumentError, OptionError):
                return await FlowEncoder(self._call_encoder, flow).encoded()
            await self._prepare(kinds, again=True)
        return await FlowEncoder(self._call_encoder, flow).encoded()

    async def _step_page(self, id: str, cursor: str | None = None) -> StepPage:
        return await self._open_store().steps(id, cursor=cursor)


# -- the body ----------------------------------------------------------------------------------------------------


async def run_flow(
    name: str,
    graph: bytes,
    arguments: Annotated[bytes, Secret],
    context: Context = INJECTED,
    manager: Manager = INJECTED,
    instance: Instance[Any] = INJECTED,
) -> None:
    """Make the members of a flow, wait until all are over, and end as they did."""
    node, members = cast(NodeFlowManager, manager), decode_graph(graph)
    run = context.durable_run("a flow")
    old = instance.retry_of
    if old is not None:
        await _keep_results(run, node._open_store(), str(old), members)  # pyright: ignore[reportPrivateUsage]
    kept = {number for value in (await run.kept(KEPT)).values() for number in kept_results(value)}
    numbers = [number for number in range(len(members.members)) if number not in kept]
    if FLOW_MADE not in await run.kept(FLOW_MADE):
        now_us, trace = manager.clock.time_us(), node._call_encoder.carrier()  # pyright: ignore[reportPrivateUsage]
        calls = decode_members(arguments, members)
        made = {number: Spec(args=calls[number], created_us=now_us, trace=trace) for number in numbers}
        await run.spawn([_child(members, number, spec, kept, context.id) for number, spec in made.items()])
        await run.keep(Step(FLOW_MADE, encode_value(len(numbers))))
    await run.over([member_id(context.id, number) for number in members.last_members() if number not in kept])
    # a member that a user cancelled ended before what it needs
    unfinished = Query(parent=context.id, state=_UNFINISHED, limit=MAX_BATCH)
    while left := [member.id async for member in manager.iter_instances(unfinished)]:
        await run.over(left)
    failed = {member.id: member async for member in manager.iter_instances(Query(parent=context.id, state=State.ERROR))}
    for number in numbers:
        member = failed.get(member_id(context.id, number))
        if member is not None and not members.members[number].optional:
            raise FlowFailed(name, members.name(number), member.id, _end_of(member))


def _child(graph: Graph, number: int, spec: Spec, kept: set[int], flow: str) -> NewChild:
    member = graph.members[number]
    options = graph.options[member.options]
    spec = structs.replace(spec, overrides=read_overrides(options.overrides), version=options.version)
    instance = NewInstance(
        id=member_id(flow, number),
        kind=options.kind,
        spec=encode(spec),
        priority=options.priority,
        tags=options.tags,
        retention_us=options.retention_us,
        max_crashes=options.max_crashes,
        limit_key=options.limit_key,
        key_concurrency=options.key_concurrency,
    )
    return NewChild(instance=instance, needs=needs_of(member, flow, kept))


async def _keep_results(run: DurableRun, store: Store, old: str, graph: Graph) -> None:
    """Copy results of the flow `old` to steps: those of members that completed, as did all that they needed.

    Results that are no longer stored, or too large, are left out: their members run again.
    """
    steps = await run.kept()
    if COPIED in steps:
        return
    chunks = [kept_results(value) for name, value in steps.items() if name.startswith(KEPT)]
    done = {number for chunk in chunks for number in chunk}
    count, chunk, size = len(chunks), dict[int, bytes](), 0
    earlier = await kept_of(store, old)
    async for number, result in _completed(store, old, range(1 + max(done, default=-1), len(graph.members)), earlier):
        taken = len(result) + _OVERHEAD
        if taken > _MAX_CHUNK or not all(need in done for need, _ in graph.members[number].needed()):
            continue
        if size + taken > _MAX_CHUNK:
            await run.keep(Step(f"{KEPT}{count}", encode_kept(chunk)))
            count, chunk, size = count + 1, {}, 0
        if count == MAX_KEPT_STEPS:
            break
        chunk[number] = result
        done.add(number)
        size += taken
    if chunk:
        await run.keep(Step(f"{KEPT}{count}", encode_kept(chunk)))
    await run.keep(Step(COPIED, encode_value(len(done))))


async def _completed(
    store: Store, old: str, numbers: Sequence[int], earlier: Mapping[int, bytes]
) -> AsyncIterator[tuple[int, bytes]]:
    """The members of a flow that completed, in order, with their results; b"" for None."""
    for at in range(0, len(numbers), MAX_READ):
        part = numbers[at : at + MAX_READ]
        records = await store.get([member_id(old, number) for number in part])
        for number, record in zip(part, records, strict=True):
            if record is None and number in earlier:
                yield number, earlier[number]
            elif record is not None and record.state is State.COMPLETED:
                yield number, record.result or b""


def _end_of(member: Instance[Any]) -> str:
    """How a member ended, in a few words."""
    note = member.record.history[-1].note if member.record.history else ""
    try:
        error = member.error
    except DecodeError as unreadable:
        return f"{member.state}: {unreadable}"
    return f"{member.state}: {error or note}" if error or note else str(member.state)


FLOW_JOB = flow_job(run_flow, max_retries=20, no_retry_on=[FlowFailed, DecodeError])
"""The job of each node with workers, which no user registers."""
