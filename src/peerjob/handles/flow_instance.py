"""The instance that runs a flow, and the instances of its members."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from peerjob.model.child_tasks import AsyncClosing
from peerjob.model.durations import Duration, to_seconds
from peerjob.model.errors import OptionError, UnknownInstanceError
from peerjob.model.flow import Member
from peerjob.model.graph import Graph, decode_graph, member_id, read_overrides
from peerjob.model.record import Record
from peerjob.model.spec import Spec, decode_spec, encode, encode_arguments
from peerjob.model.state import State

from .instance import Instance, InstanceManager

R = TypeVar("R")


class FlowInstance(Instance[None]):
    """The instance that runs a flow. It ends when all members are over, and fails with the first one that failed.

    `run[member]` is the instance of a member. It exists as soon as the flow has made it; to wait for it waits for that.
    """

    __slots__ = ("_graph",)

    _graph: Graph | None

    @classmethod
    def of(cls, instance: Instance[Any]) -> FlowInstance:
        """The same instance, as one that runs a flow."""
        made = cls(instance._manager, instance.record, job=instance._job, is_new=instance.is_new)
        made._graph = None
        return made

    @property
    def name(self) -> str:
        """The name of the flow."""
        return str(self.args[0])

    def _read_graph(self) -> Graph:
        if self._graph is None:
            self._graph = graph_of(self.record)
        return self._graph

    def __getitem__(self, member: Member[R]) -> Instance[R]:
        graph, number = self._read_graph(), member.number
        if number >= len(graph.members) or graph.kind(number) != member.call.job.kind or member.flow.name != self.name:
            raise OptionError("member", member, f"a member of flow {self.name!r}, which instance {self.id} runs")
        return MemberInstance(self, number, member.call.job)


class MemberInstance(Instance[Any]):
    """The instance of a member of a flow, which perhaps does not exist yet."""

    __slots__ = ("_flow", "_number")

    def __init__(self, flow: FlowInstance, number: int, job: object) -> None:
        super().__init__(flow._manager, _unmade(flow, number), job=job)
        self._flow = flow
        self._number = number

    async def refresh(self) -> Instance[Any]:
        """Read the record again; a member that the flow has not made yet stays Created."""
        record = await self._found(self._need_manager(), await self._flow.refresh())
        if record is not None:
            self._record = record
        return self

    def refresh_directly(self) -> bool:
        return False

    async def wait(self, timeout: Duration | None = None) -> Instance[Any]:
        if timeout is None:
            await self._made()
            return await super().wait()
        seconds = to_seconds(timeout)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            async with asyncio.timeout(seconds):
                await self._made()
        except TimeoutError:
            raise TimeoutError(f"instance {self.id} is not final after {seconds:g} s") from None
        return await super().wait(max(0.0, deadline - loop.time()))

    async def _made(self) -> None:
        """Wait until the flow has made the member; raises UnknownInstanceError if it ended without it."""
        if self._record.fence or self._record.history:
            return
        manager = self._need_manager()
        events: Any = manager.watch_instance(self._flow.id)
        async with AsyncClosing(events):
            async for event in events:
                if event.what == "state" and (record := await self._found(manager, event.instance)) is not None:
                    self._record = record
                    return
        raise UnknownInstanceError(self.id)

    async def _found(self, manager: InstanceManager, flow: Instance[Any]) -> Record | None:
        """The record of the member; if the flow repeats another one and kept the result, that of the other member."""
        while True:
            try:
                return (await manager.lookup_instance(member_id(flow.id, self._number))).record
            except UnknownInstanceError:
                old = flow.retry_of
                # before its first wait, the flow still makes members
                if old is None or flow.state is State.PROCESSING or not flow.fence:
                    return None
            try:
                flow = await manager.lookup_instance(str(old))
            except UnknownInstanceError:
                return None


def graph_of(record: Record) -> Graph:
    """The members of the flow that an instance runs; raises DecodeError."""
    _, graph, _ = decode_spec(record.spec).arguments()[0]
    return decode_graph(graph)


def _unmade(flow: FlowInstance, number: int) -> Record:
    """What is known of a member before the flow has made it."""
    graph = flow._read_graph()  # pyright: ignore[reportPrivateUsage]  # of this module
    member = graph.members[number]
    options = graph.options[member.options]
    return Record(
        id=member_id(flow.id, number),
        kind=options.kind,
        state=State.CREATED,
        spec=encode(
            Spec(args=encode_arguments((), {}), overrides=read_overrides(options.overrides), version=options.version)
        ),
        priority=options.priority,
        due_us=flow.record.due_us,
        attempts=0,
        crashes=0,
        losses=0,
        fence=0,
        owner="",
        history=(),
        tags=options.tags,
        retention_us=options.retention_us,
        parent=flow.id,
    )
