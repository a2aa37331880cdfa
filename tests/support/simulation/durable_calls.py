"""What users call about durable bodies, as a random program has it."""

from __future__ import annotations

from typing import Any

from peerjob import FlowInstance, Node, NotRunningError, Query
from peerjob.model.durable import FLOW_KIND

from .durable import DurableBodies
from .durable_evidence import Signalled


class DurableCalls:
    """The calls about durable bodies."""

    _ids: dict[int, list[str]]
    _durable: DurableBodies
    removes: bool

    async def _order(self, number: int, node: Node, given: dict[str, Any]) -> str:
        """Schedule a durable body."""
        self.removes = True  # a child whose parent has ended can be removed at once
        token = f"t{number}"
        instance = await node.schedule(self._durable.call(given, token))
        self._durable.ordered(instance, token, given["options"])
        self._ids[number] = [instance.id]
        return "new" if instance.is_new else "known"

    async def _flow(self, number: int, node: Node, given: dict[str, Any]) -> int:
        self.removes = True
        self._ids[number] = [await self._durable.schedule_flow(node, given, f"t{number}")]
        return len(given["members"])

    async def _signal(self, _: int, node: Node, given: dict[str, Any]) -> str:
        """Give a value to the instances of an operation, or to their children."""
        ids = self._ids.get(given["of"], [])
        if given["deep"] and ids:
            ids = [child.id async for child in node.iter_instances(Query(parent=ids[0], limit=20))]
        answers: list[str] = []
        for id in ids:
            try:
                accepted = await node.signal(id, given["name"], given["value"])
            except NotRunningError:
                answers.append("final")
                continue
            answers.append(str(accepted))
            self._durable.evidence.signals.append(
                Signalled(id=id, name=given["name"], value=given["value"], accepted=accepted)
            )
        return " ".join(answers)

    async def _tree(self, _: int, node: Node, given: dict[str, Any]) -> int:
        """Look at instances, their steps and their children."""
        seen = 0
        for id in self._ids.get(given["of"], []):
            instance = await node.lookup_instance(id)
            seen += len(await node.steps(id))
            seen += len(await node.lookup_instances(Query(parent=instance.id, limit=50)))
        return seen

    async def _retry_durable(self, node: Node, id: str) -> Any:
        """Repeat an instance: a flow as a flow."""
        if (await node.lookup_instance(id)).kind != FLOW_KIND:
            return await node.retry_instance(id)
        made: FlowInstance = await node.retry_flow(id)
        self._durable.repeated_flow(id, made.id)
        return made
