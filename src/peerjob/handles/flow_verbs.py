"""The verbs for flows, and for the steps that an instance has kept."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from peerjob.model.arguments import typed
from peerjob.model.durable import FLOW_KIND, StepPage
from peerjob.model.errors import OptionError, UnknownInstanceError
from peerjob.model.flow import Flow
from peerjob.model.ids import checked_id
from peerjob.model.json_text import to_json
from peerjob.model.pages import pages
from peerjob.model.step_values import shown_step

from .flow_instance import FlowInstance
from .instance import InstanceView


class FlowVerbs(ABC):
    """The part of a `Manager` for flows."""

    @abstractmethod
    async def schedule_flow(
        self, flow: Flow, *, tags: Iterable[str] = (), id: str | UUID | None = None
    ) -> FlowInstance:
        """Store one run of a flow, in one step, and return the instance that runs it: `run[member]` is a member's.

        A node with workers makes the members. The instance ends when all of them are over. It fails with the first
        member that failed and is not optional. `tags` are those of this instance. `id` is as in `schedule_as`.

        Raises ArgumentError, OptionError, UnknownKindError or PayloadTooLargeError, which name flow and member, before
        anything is stored; LayoutError while a node of an older release is alive.
        """

    @typed
    async def retry_flow(self, instance: InstanceView | str | UUID, *, id: str | UUID | None = None) -> FlowInstance:
        """Store a new run of a final flow. It keeps the results of members that completed, and makes the others.

        A member runs again if a member that it needs does, if its result is no longer stored, and beyond 15 MiB of
        results. `id` and errors as in `retry_instance`; raises OptionError for an instance that runs no flow.
        """
        uuid = checked_id(instance.id if isinstance(instance, InstanceView) else instance, "instance")
        manager: Any = self  # a Manager, which has the two verbs below
        try:
            kind = (await manager.lookup_instance(uuid)).kind
        except UnknownInstanceError:
            kind = FLOW_KIND  # a repeated call can find what the first one made
        if kind != FLOW_KIND:
            raise OptionError("instance", uuid, f"an instance that runs a flow, not one of kind {kind!r}")
        return FlowInstance.of(await manager.retry_instance(uuid, id=id))

    @typed
    async def steps(self, instance: InstanceView | str | UUID) -> dict[str, Any]:
        """Return the steps and signals that an instance has kept, by name: as values of JSON, with "***" for secrets.

        "!" stands before the name of a signal. Empty for an instance that is unknown or has none.
        """
        id = checked_id(instance.id if isinstance(instance, InstanceView) else instance, "instance")
        steps: dict[str, Any] = {}
        async for page in pages(lambda cursor: self._step_page(id, cursor)):
            steps |= {step.name: json.loads(to_json(shown_step(step.value))) for step in page.steps}
        return steps

    @abstractmethod
    async def _step_page(self, id: str, cursor: str | None = None) -> StepPage: ...
