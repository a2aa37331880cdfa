"""The instance that runs a flow, for code that has no event loop of its own."""

from __future__ import annotations

from typing import TypeVar

from peerjob.model.flow import Member

from .blocking_calls import BlockingCalls
from .blocking_handles import BlockingInstance
from .flow_instance import FlowInstance

R = TypeVar("R")


class BlockingFlowInstance(BlockingInstance[None]):
    """The instance that runs a flow, with verbs that block. `run[member]` is the instance of a member."""

    __slots__ = ("_flow",)

    def __init__(self, manager: BlockingCalls, flow: FlowInstance) -> None:
        super().__init__(manager, flow)
        self._flow = flow

    @property
    def name(self) -> str:
        """The name of the flow."""
        return self._flow.name

    def __getitem__(self, member: Member[R]) -> BlockingInstance[R]:
        return BlockingInstance(self._manager, self._flow[member])
