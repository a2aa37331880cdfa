"""What users call, as a random program has it: one coroutine for each verb."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, cast

from peerjob import Filter, Job, Node, NodeStateError, NodeStoppedError, Query, State
from peerjob.handles.instance import Event
from peerjob.model.clock import to_datetime
from peerjob.model.record import Transition

from .bodies import Bodies
from .durable import DurableBodies
from .durable_calls import DurableCalls
from .program import Op


class Calls(DurableCalls):
    """Makes the calls of a program, and records the answers."""

    def __init__(
        self,
        bodies: Bodies,
        durable: DurableBodies,
        jobs: Mapping[int, Job[..., Any, Any]],
        now_us: Callable[[], int],
    ) -> None:
        self._bodies = bodies
        self._durable = durable
        self._jobs = jobs
        self._now_us = now_us
        self._ids: dict[int, list[str]] = {}
        """Operation → instances that it made."""
        self.snapshots: dict[str, list[tuple[Transition, ...]]] = {}
        self.removes = False
        """Whether final instances may be gone: cleared, or because their retention is over."""
        self.folds = False

    async def make(self, number: int, op: Op, node: Node) -> str:
        """Make one call; answers what came of it in a few words."""
        verb: Callable[[int, Node, dict[str, Any]], Awaitable[object]] = getattr(self, f"_{op.verb}")
        answer = await verb(number, node, op.given)
        return "" if answer is None else str(answer)

    # -- instances

    async def _schedule(self, number: int, node: Node, given: dict[str, Any]) -> str:
        token = f"t{number}"
        instance = await node.schedule(self._job(given).call(token, given["plan"], *self._padding(given)))
        self._bodies.ordered(instance, token, given["options"])
        self._ids[number] = [instance.id]
        return "new" if instance.is_new else "known"

    async def _schedule_many(self, number: int, node: Node, given: dict[str, Any]) -> int:
        works = given["works"]
        tokens = [f"t{number}.{index}" for index in range(len(works))]
        calls = [
            self._job(work).call(token, work["plan"], *self._padding(work))
            for token, work in zip(tokens, works, strict=True)
        ]
        instances = await node.schedule_many(calls)
        for instance, token, work in zip(instances, tokens, works, strict=True):
            self._bodies.ordered(instance, token, work["options"])
        self._ids[number] = [instance.id for instance in instances]
        return sum(instance.is_new for instance in instances)

    async def _cancel(self, _: int, node: Node, given: dict[str, Any]) -> list[bool]:
        answer: list[bool] = []
        for id in self._those(given):
            answer.append(await node.cancel_instance(id))
            if answer[-1]:
                self._cancelled(id)
        return answer

    async def _run_now(self, _: int, node: Node, given: dict[str, Any]) -> list[str]:
        answer: list[str] = []
        for id in self._those(given):
            try:
                answer.append("moved" if await node.run_now(id) else "due")
            except NodeStoppedError:
                raise
            except NodeStateError:
                answer.append("refused")
        return answer

    async def _cancel_kind(self, _: int, node: Node, given: dict[str, Any]) -> int:
        cancelled = await node.cancel_instances(Query(kind=f"k{given['kind']}", state=State.ACTIVE))
        for instance in cancelled:
            self._cancelled(instance.id)
        return len(cancelled)

    def _cancelled(self, id: str) -> None:
        order = self._bodies.orders.get(id)
        if order is not None and order.cancelled_us is None:
            order.cancelled_us = self._now_us()

    async def _retry(self, number: int, node: Node, given: dict[str, Any]) -> str:
        for id in self._those(given):
            made = await self._retry_durable(node, id)
            self._ids.setdefault(number, []).append(made.id)
            old = self._bodies.orders.get(id)
            if old is not None:
                options = {
                    "max_retries": old.max_retries,
                    "max_crashes": old.max_crashes,
                    "tags": old.tags,
                }
                self._bodies.ordered(made, old.token, options)
        return str(len(self._ids.get(number, ())))

    async def _wait(self, _: int, node: Node, given: dict[str, Any]) -> str:
        return " ".join([str((await node.wait_final(id, given["timeout"])).state) for id in self._those(given)])

    # -- schedules

    async def _add_schedule(self, number: int, node: Node, given: dict[str, Any]) -> int:
        job = self._jobs[given["kind"]].with_options(name=f"s{given['name']}", **given["options"])
        return (await node.add_schedule(job.call(f"t{number}", given["plan"]))).row.revision

    async def _pause_schedule(self, _: int, node: Node, given: dict[str, Any]) -> bool:
        return (await node.pause_schedule(f"s{given['name']}", "paused by a program")).paused

    async def _resume_schedule(self, _: int, node: Node, given: dict[str, Any]) -> bool:
        return (await node.resume_schedule(f"s{given['name']}")).paused

    async def _trigger_schedule(self, number: int, node: Node, given: dict[str, Any]) -> str:
        made = await node.trigger_schedule(f"s{given['name']}")
        if made is None:
            return "none"
        self._ids[number] = [made.id]
        return "made"

    async def _remove_schedule(self, _: int, node: Node, given: dict[str, Any]) -> bool:
        return await node.remove_schedule(f"s{given['name']}")

    async def _backfill(self, _: int, node: Node, given: dict[str, Any]) -> str:
        end = to_datetime(self._now_us())
        done = await node.backfill(f"s{given['name']}", end - timedelta(seconds=given["back"]), end)
        return f"{done.made} of {done.times}"

    # -- reading

    async def _lookup(self, _: int, node: Node, given: dict[str, Any]) -> int:
        page = await node.lookup_instances(Query(kind=f"k{given['kind']}", limit=20))
        for instance in page:
            self.snapshots.setdefault(instance.id, []).append(instance.record.history)
        return len(page)

    async def _lookup_tag(self, _: int, node: Node, __: dict[str, Any]) -> int:
        return len(await node.lookup_instances(Query(tag="red", limit=20, order="desc")))

    async def _history(self, _: int, node: Node, given: dict[str, Any]) -> int:
        for id in self._those(given):
            instance = await node.lookup_instance(id)
            self.snapshots.setdefault(id, []).append(instance.record.history)
        return len(self._those(given))

    async def _logs(self, _: int, node: Node, given: dict[str, Any]) -> int:
        return sum([1 for id in self._those(given) async for _line in node.iter_logs(id)])

    async def _count(self, _: int, node: Node, given: dict[str, Any]) -> int:
        return await node.count(Query(kind=f"k{given['kind']}", state=State.ACTIVE))

    async def _stats(self, _: int, node: Node, __: dict[str, Any]) -> int:
        return (await node.stats()).total()

    async def _nodes(self, _: int, node: Node, __: dict[str, Any]) -> int:
        return len(await node.nodes())

    async def _fires(self, _: int, node: Node, given: dict[str, Any]) -> int:
        return len(await node.fires(f"s{given['name']}", limit=20))

    async def _due(self, _: int, node: Node, __: dict[str, Any]) -> int:
        return sum((await node.due()).values())

    async def _watch(self, _: int, node: Node, given: dict[str, Any]) -> str:
        """The first event of a kind, if there is one within a second."""
        events = cast("AsyncGenerator[Event]", node.watch(Query(kind=f"k{given['kind']}")))
        async with contextlib.aclosing(events):
            try:
                async with asyncio.timeout(1):
                    return str((await anext(events)).state)
            except TimeoutError:
                return "nothing"

    async def _say(self, _: int, node: Node, given: dict[str, Any]) -> None:
        for id in self._those(given):
            node.keep_line(id, logging.INFO, "a caller says this")

    # -- clearing and nodes

    async def _clear_instances(self, _: int, node: Node, given: dict[str, Any]) -> int:
        self.removes = True
        return await node.clear_instances(Filter(older_than=given["older"]))

    async def _clear_history(self, _: int, node: Node, given: dict[str, Any]) -> int:
        self.folds = True
        return await node.clear_history(Filter(older_than=given["older"]))

    async def _clear_logs(self, _: int, node: Node, given: dict[str, Any]) -> int:
        return await node.clear_logs(Filter(older_than=given["older"]))

    async def _resize(self, _: int, node: Node, given: dict[str, Any]) -> None:
        await node.resize_workers(given["workers"])

    async def _drain(self, _: int, node: Node, __: dict[str, Any]) -> None:
        await node.drain(timeout=10)

    async def _unregister(self, _: int, node: Node, given: dict[str, Any]) -> None:
        node.unregister(f"k{given['kind']}")

    async def _register(self, _: int, node: Node, given: dict[str, Any]) -> None:
        node.register(self._jobs[given["kind"]])

    # -- inside

    def _job(self, work: dict[str, Any]) -> Job[..., Any, Any]:
        self.removes = self.removes or "retention" in work["options"]
        return self._jobs[work["kind"]].with_options(**work["options"])

    def _those(self, given: dict[str, Any]) -> list[str]:
        return self._ids.get(given["of"], [])

    @staticmethod
    def _padding(work: dict[str, Any]) -> list[str]:
        return ["x" * work["size"]] if "size" in work else []
