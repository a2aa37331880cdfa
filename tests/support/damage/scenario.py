"""Two nodes at work in a namespace, and what they must still do after one stored value was damaged."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import httpx

from peerjob import Instance, Node, PeerjobError, Query, State
from peerjob.handles.observing import explain_schedule, observe
from peerjob.handles.reasons import why_instance
from peerjob.model.graph import member_id
from peerjob.model.ids import child_ids
from peerjob.model.rights import Role
from peerjob.transfer.exporting import export_namespace
from peerjob.web import dashboard
from support.waiting import until

from .jobs import DURABLE, GATES, GO, RUNS, SPARE, failing, graph, large, long, parent, part, quick, signalled, tick

LATER = 12
"""Jobs that are scheduled after the damage."""
FIRES = 2
"""Fires that each good schedule must have after the damage."""
LEASE = 6.0
"""Long enough that no node loses its lease while dozens of cases share a core: a lost lease may repeat a run."""
ANSWER = 40.0
"""Seconds after which something hangs: many times what it takes beside dozens of other cases.

The end of a case has this twice, and all of it is less than the time limit of a test (see `CASE_SECONDS`).
"""
REPEATED = "ran more than once"
_PAGES = ("/", "/instances", "/instances?kind=QUICK", "/instances?tag=TAG", "/nodes", "/kinds", "/kinds/QUICK")
_MORE_PAGES = ("/schedules", "/schedules/GOOD", "/fires/GOOD", "/audit")
_ENDING = {"parent", "part0", "part1", "signalled", "member0", "member1"}
"""The durable instances whose bodies count runs."""


class Scenario:
    """One namespace, from the start of its nodes to their end."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self.namespace = namespace
        self._runs: Counter[str] = RUNS[namespace]
        self._stack = AsyncExitStack()
        self.nodes = [self._node("A"), self._node("B", SPARE)]
        self.names: dict[str, str] = {}
        """The names of the instances, by id."""
        self.known: dict[str, Instance[Any]] = {}
        self.problems: list[str] = []
        self._fired: Counter[str] = Counter()

    def _node(self, name: str, more: list[Any] | None = None) -> Node:
        jobs = [quick, large, long, tick, failing, parent, part, signalled, *(more or ())]
        return Node(
            self._url, jobs=jobs, workers=6, namespace=self.namespace, name=self.namespace + name, lease_ttl=LEASE
        )

    # -- before the damage -------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start the nodes, and work of each kind: waiting, running, ended, failed, parked, recurring."""
        for node in self.nodes:
            await self._stack.enter_async_context(node)
        first, space = self.nodes[0], self.namespace
        tagged = quick.with_options(tags=["TAG"], key="KEY1")
        await self._keep("ended", first.schedule(tagged, space, "ended"))
        await self._keep("large", first.schedule(large.with_options(tags=["TAG"]), space, "large", "p" * 900))
        await self._keep("running", first.schedule(long.with_options(tags=["TAG"], key="KEY2"), space, "running", 6.0))
        later = quick.with_options(tags=["TAG"], key="KEY3", after="2s")
        await self._keep("delayed", first.schedule(later, space, "delayed"))
        await self._keep("bulky", first.schedule(large.with_options(after="2s"), space, "bulky", "p" * 900))
        await self._keep(
            "far", first.schedule(quick.with_options(tags=["OTHER"], key="KEY4", after="1h"), space, "far")
        )
        await self._keep("retrying", first.schedule(failing, space, "retrying"))
        await self._keep("unserved", first.schedule("NOBODY", allow_unknown=True))
        often = tick.with_options(every="500ms", overlap="queue")
        await first.add_schedule(often.with_options(name="VICTIM"), space, "VICTIM", 0.7)
        await first.add_schedule(often.with_options(name="GOOD"), space, "GOOD")
        await first.add_schedule(tick.with_options(cron="0 3 * * *", name="FAR"), space, "FAR")
        first.keep_audit("Test", principal="tester")
        await until(lambda: min(self._runs[name] for name in ("ended", "large", "running", "retrying")) > 0)
        await self._begin_durable()
        await until(lambda: self._runs["VICTIM"] > 1 and self._runs["GOOD"] > 1)

    async def _begin_durable(self) -> None:
        """Start bodies that wait: for children at work, for a signal, and for members of a flow at work."""
        first, space = self.nodes[0], self.namespace
        await self._keep("parent", first.schedule(parent, space, "parent"))
        await self._keep("signalled", first.schedule(signalled, space, "signalled"))
        await self._keep("flow", first.schedule_flow(graph(space)))
        waiting = [self.known[name] for name in ("parent", "signalled", "flow")]
        await until(lambda: self._wait_all(waiting))
        await until(lambda: min(self._runs[name] for name in ("part0", "part1", "member0")) > 0)
        parts = child_ids(str(self.known["parent"].id), ["part0", "part1"])
        members = [member_id(str(self.known["flow"].id), number) for number in range(2)]
        for name, id in zip(("part0", "part1", "member0", "member1"), (*parts, *members), strict=True):
            await self._keep(name, first.lookup_instance(id))

    async def _wait_all(self, instances: list[Instance[Any]]) -> bool:
        return None not in [(await instance.refresh()).waits_for for instance in instances]

    async def _keep(self, name: str, scheduling: Awaitable[Instance[Any]]) -> None:
        instance = await scheduling
        self.known[name] = instance
        self.names[str(instance.id)] = name

    # -- after the damage --------------------------------------------------------------------------------------------

    async def go_on(self, *, lost: frozenset[str] = frozenset(), good: tuple[str, ...] = ("GOOD", "VICTIM")) -> None:
        """Schedule further work, and check that all of it runs, once. `lost`: the runs that the damage may lose."""
        self._fired = self._runs.copy()
        await asyncio.gather(self._schedule_later(), self._read(lost, good))
        GATES[self.namespace].set()
        await self._signal(lost)
        wanted = {f"later{number}" for number in range(LATER)} | {"delayed", "bulky", "running", *_ENDING} - lost
        await self._reached("these runs are missing", lambda: sorted(name for name in wanted if not self._runs[name]))
        await self._reached("these schedules stand still", lambda: [name for name in good if not self._fires(name)])
        twice = [name for name, times in self._runs.items() if times > 1 and name not in {"VICTIM", "GOOD"} | lost]
        if twice:
            self.problems.append(f"{REPEATED}: {twice}")

    async def _signal(self, lost: frozenset[str]) -> None:
        call = self.nodes[0].signal(self.known["signalled"].id, GO, True)
        if "signalled" not in lost:
            await self._answers("signal", call)
        else:
            with contextlib.suppress(PeerjobError):  # the record can be gone
                await call

    def _fires(self, schedule: str) -> bool:
        return self._runs[schedule] >= self._fired[schedule] + FIRES

    async def _reached(self, problem: str, left: Callable[[], list[str]]) -> None:
        try:
            await until(lambda: not left(), ANSWER)
        except TimeoutError:
            self.problems.append(f"{problem}: {left()}")

    async def _schedule_later(self) -> None:
        for number in range(LATER):
            options: dict[str, Any] = {"tags": ["TAG"], "key": f"LATER{number}"} if number % 3 == 0 else {}
            if number % 4 == 0:
                options["after"] = "500ms"
            node = self.nodes[number % 2]
            await self._answers(
                "schedule", node.schedule(quick.with_options(**options), self.namespace, f"later{number}")
            )
            await asyncio.sleep(0.1)

    async def _answers(self, what: str, call: Awaitable[Any], seconds: float = ANSWER) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await call
        except Exception as error:  # noqa: BLE001  # the report names any error, and the case goes on
            self.problems.append(f"{what}: {type(error).__name__}: {error}"[:300])

    async def _read(self, lost: frozenset[str], good: tuple[str, ...]) -> None:
        first, second = self.nodes
        await asyncio.sleep(0.5)
        reads: dict[str, Awaitable[Any]] = {
            "all": first.lookup_instances(Query(limit=1000)),
            "by tag": first.lookup_instances(Query(tag="TAG")),
            "by kind": second.lookup_instances(Query(kind="QUICK")),
            "by state": second.lookup_instances(Query(state=State.COMPLETED, order="desc")),
            "history": first.lookup_history(Query(limit=500)),
            "logs": second.lookup_logs(Query(limit=500)),
            "count": first.count(Query(kind="QUICK")),
            "stats": second.stats(),
            "activity": first.activity(),
            "nodes": second.nodes(),
            "leader": first.leader(),
            "audit": first.audit(),
            "schedules": second.schedules(),
            "fires": first.fires("GOOD"),
            "jobs": first.registered_jobs(),
            "schemas": second.registered_jobs(schemas=True),
        }
        if "far" not in lost:
            reads["why"] = self._why()
        if "VICTIM" in good:
            reads["fires of the victim"] = second.fires("VICTIM")
        answers = await asyncio.gather(*(self._answers(what, call) for what, call in reads.items()))
        found = dict(zip(reads, answers, strict=True))
        self._has("all", found["all"], {"far", "running", "delayed", "ended"} - lost)
        self._has("by tag", found["by tag"], {"running", "delayed", "ended"} - lost)
        self._has("by kind", found["by kind"], {"far", "ended"} - lost)
        await self._pages(lost)

    async def _why(self) -> None:
        node, now = self.nodes[1], datetime.now(UTC)
        instance = await node.lookup_instance(self.known["far"].id)
        assert why_instance(await observe(node, instance, now))
        assert await explain_schedule(node, await node.lookup_schedule("GOOD"), now)

    def _has(self, what: str, page: Any, names: set[str]) -> None:
        found = {self.names.get(str(one.id)) for one in page or ()}
        if page is not None and names - found:
            self.problems.append(f"{what} hides {sorted(names - found)}")

    async def _pages(self, lost: frozenset[str]) -> None:
        async def authorize(_request: object) -> Role:
            return Role.ADMIN

        app: Any = dashboard(self.nodes[0], authorize=authorize)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        pages = [*_PAGES, *_MORE_PAGES, *([] if "far" in lost else [f"/instances/{self.known['far'].id}"])]
        async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as browser:
            for page in pages:
                await self._answers(page, self._page(browser, page))

    async def _page(self, browser: httpx.AsyncClient, page: str) -> None:
        """Load a page. On a busy machine, a page can be late, and then comes with a later try."""
        for left in reversed(range(5)):
            answer = await browser.get(page)
            if answer.status_code == 503 and left:
                await asyncio.sleep(1)
            elif answer.status_code == 200:
                return
            else:
                raise AssertionError(f"{answer.status_code} {answer.text[-200:]}")

    # -- the end -----------------------------------------------------------------------------------------------------

    async def end(
        self, *, lost: frozenset[str] = frozenset(), stay: frozenset[str] = frozenset(), drains: bool = True
    ) -> None:
        """Cancel and remove. The runs in `stay` need not end."""
        node = self.nodes[1]
        if "far" not in lost:
            await self._answers("cancel", node.cancel_instance(self.known["far"].id))
        for schedule in ("GOOD", "VICTIM", "FAR"):
            await self._answers(f"remove {schedule}", node.remove_schedule(schedule))
        if drains:
            await self._reached_later("ticks never end", self._open_ticks)
        await self._reached_later("durable bodies wait for ever", lambda: self._ended_durable(stay))
        await self._answers("stats at the end", node.stats())

    async def _open_ticks(self) -> bool:
        return not await self.nodes[0].lookup_instances(Query(kind="TICK", state=State.ACTIVE))

    async def _ended_durable(self, stay: frozenset[str]) -> bool:
        """Whether each durable instance has ended, or is gone because its record was damaged."""
        left = {self.names.get(str(one.id)) for one in await self.nodes[0].lookup_instances(Query(state=State.ACTIVE))}
        return not left & {name for group in DURABLE for name in group - stay}

    async def _reached_later(self, problem: str, condition: Callable[[], Awaitable[bool]]) -> None:
        try:
            await until(condition, ANSWER)
        except Exception as error:  # noqa: BLE001  # the same
            self.problems.append(f"{problem}: {type(error).__name__} {error}")

    async def close(self) -> None:
        """Stop the nodes, and export what is left."""
        await self._answers("close", self._stack.aclose())
        await self._answers("export", self._export())

    async def _export(self) -> None:
        lines = [line async for line in export_namespace(self._url, namespace=self.namespace)]
        assert lines
