"""The durable jobs of a random program: bodies with steps, waits and children, and graphs of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from peerjob import INJECTED, Child, ChildFailed, Context, Fail, Flow, Instance, Job, Manager, Signal, SignalTimeout
from peerjob.model.durable import When
from peerjob.model.durable_errors import Suspended
from peerjob.model.graph import member_id
from peerjob.model.job import Call

from .bodies import ACTIONS, Bodies, SimulatedError
from .durable_evidence import Awaited, DurableEvidence, Kept, Member, Waited
from .evidence import Run

KINDS = 3
Given = dict[str, Any]


class DurableBodies:
    """The durable jobs of one program, and what their bodies write down."""

    def __init__(self, bodies: Bodies, now_us: Callable[[], int]) -> None:
        self._bodies = bodies
        self._now_us = now_us
        self._calls: Counter[tuple[str, str]] = Counter()
        """Instance and step or action → how often its function was called."""
        self.evidence = DurableEvidence()

    def job(self, kind: str) -> Job[..., Any, Any]:
        """The job of a kind: "d1" is durable, "k1" is not."""
        if kind.startswith("k"):
            return self._bodies.job(int(kind[1:]))
        return Job(kind, self.body, max_retries=2, backoff=0.2, limits=self._bodies.limits())

    def call(self, given: Given, token: str, *more: object) -> Call[Any]:
        """The call that a plan describes."""
        return self.job(given["kind"]).with_options(**given["options"]).call(token, given["plan"], *more)

    async def body(
        self, token: str, plan: list[list[Any]], given: Any = None, context: Context = INJECTED
    ) -> list[Any]:
        """The body of every durable job: does its whole plan in each run."""
        stubborn = any(action[:2] == ["do", "ignore 2"] for action in plan)
        returned: list[Any] = await self._bodies.recorded(
            token, context, lambda run: _Performance(self, run, context).perform(plan), stubborn=stubborn
        )
        return returned

    def ordered(self, instance: Instance[Any], token: str, options: Given) -> None:
        """Record an instance from an answer to a caller."""
        self._bodies.ordered(instance, token, options)

    def count(self, id: str, what: str) -> int:
        """Count a call, and return how many there were."""
        self._calls[id, what] += 1
        return self._calls[id, what]

    def now_us(self) -> int:
        return self._now_us()

    def started(self, child: Child[Any], parent: str, token: str, given: Given) -> None:
        """Note a child from the answer to its parent."""
        self.evidence.children.setdefault((parent, child.name), set()).add(child.id)
        self._bodies.named(child.id, given["kind"], token, given["options"])

    # -- flows

    async def schedule_flow(self, manager: Manager, given: Given, token: str) -> str:
        """Schedule the flow that an operation describes; returns its id."""
        flow = Flow(f"flow of {token}")
        needs: list[dict[int, When]] = []
        for number, one in enumerate(given["members"]):
            members = flow.members
            outputs: list[Any] = []
            needed: dict[int, When] = {}
            for place, how in one["needs"]:
                if one["kind"].startswith("d") and how in ("output", "ended"):
                    outputs.append(members[place].output if how == "output" else members[place].ended)
                    if how == "output" or place not in needed:
                        needed[place] = "completed" if how == "output" else "ended"
            others = [place for place, _ in one["needs"] if place not in needed]
            when: When = one["when"]
            call = self.call(one, f"{token}/{number}", *([outputs] if outputs else []))
            flow.add(call, after=[members[place] for place in others], when=when, optional=one["optional"])
            needed.update((place, when) for place in others)
            needs.append(needed)
        made = await manager.schedule_flow(flow, tags=given["tags"])
        self.evidence.flows[made.id] = tuple(
            Member(
                id=member_id(made.id, number),
                needs=tuple((member_id(made.id, place), how) for place, how in needed.items()),
                optional=one["optional"],
            )
            for number, (one, needed) in enumerate(zip(given["members"], needs, strict=True))
        )
        self._bodies.ordered(made, token, {"max_retries": None, "tags": given["tags"]})
        return made.id

    def repeated_flow(self, old: str, new: str) -> None:
        """Note a new run of a flow. What it keeps of the old one is not known, so no need is."""
        members = self.evidence.flows.get(old, ())
        ids = {member.id: member_id(new, number) for number, member in enumerate(members)}
        self.evidence.flows[new] = tuple(
            Member(id=ids[one.id], needs=tuple((ids[id], when) for id, when in one.needs), optional=one.optional)
            for one in members
        )


class _Performance:
    """One run of a durable body."""

    def __init__(self, bodies: DurableBodies, run: Run, context: Context) -> None:
        self._bodies = bodies
        self._evidence = bodies.evidence
        self._run = run
        self._context = context
        self._children: dict[str, Child[Any]] = {}

    async def perform(self, plan: Sequence[list[Any]]) -> list[Any]:
        self._run.result = [self._run.token, self._run.fence]
        for number, (verb, *given) in enumerate(plan):
            act: Callable[..., Awaitable[None]] = getattr(self, f"_{verb}")
            await act(*given, **({"number": number} if verb == "fail" else {}))
        return [self._run.token, self._run.fence]

    # -- steps

    async def _step(self, name: str, how: str, seconds: float) -> None:
        run, bodies = self._run, self._bodies

        async def work() -> list[Any]:
            nth = bodies.count(run.id, name)
            if how == "fails" and nth == 1:
                raise SimulatedError(run.token)
            if seconds:
                await asyncio.sleep(seconds)
            return [run.token, name, run.fence, nth]

        value = await self._context.step(name, work)
        self._evidence.kept.append(Kept(id=run.id, name=name, value=value))

    async def _steps(self, names: list[str], seconds: float) -> None:
        """Steps at the same time."""
        await asyncio.gather(*(self._step(name, "", seconds) for name in names))

    async def _beside(self, names: list[str], seconds: float, signal: str, timeout: float | None) -> None:
        """Steps beside a wait: the run ends for the wait when they are kept."""
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._step(name, "", seconds))
            group.create_task(self._wait(signal, timeout))

    # -- waits

    async def _wait(self, name: str, timeout: float | None) -> None:
        waited = self._waited(name, timeout)
        try:
            waited.value = await self._context.wait_for(Signal(name, object), timeout=timeout)
        except SignalTimeout:
            waited.outcome, waited.ended_us = "timed out", self._bodies.now_us()
        except Suspended:
            waited.outcome = "suspended"
            raise
        else:
            waited.outcome, waited.ended_us = "value", self._bodies.now_us()

    async def _suspend(self, name: str, seconds: float) -> None:
        waited = self._waited(name, seconds)
        waited.is_suspend = True
        try:
            await self._context.suspend(name, seconds)
        except Suspended:
            waited.outcome = "suspended"
            raise
        waited.outcome, waited.ended_us = "timed out", self._bodies.now_us()

    def _waited(self, name: str, seconds: float | None) -> Waited:
        waited = Waited(
            id=self._run.id,
            name=name,
            fence=self._run.fence,
            called_us=self._bodies.now_us(),
            delay_us=None if seconds is None else round(seconds * 1_000_000),
        )
        self._evidence.waits.append(waited)
        return waited

    # -- children

    async def _start(self, name: str, given: Given) -> None:
        token = f"{self._run.token}/{name}"
        child = await self._context.start(name, self._bodies.call(given, token))
        self._children[name] = child
        self._bodies.started(child, self._run.id, token, given)

    async def _gather(self, names: list[str], how: str) -> None:
        """Wait for children; a failed one fails the body, or the body goes on."""
        children = [self._children[name] for name in names]
        results: tuple[Any, ...] | None = None
        try:
            results = await self._context.gather(*children)
        except ChildFailed:
            if how == "raises":
                self._over(children, None)
                raise
        self._over(children, results)

    async def _ended(self, name: str) -> None:
        child = self._children[name]
        end = await child.ended()
        self._over([child], (end.result,) if end.completed else None)

    async def _map(self, name: str, given: list[Given]) -> None:
        calls = [self._bodies.call(one, f"{self._run.token}/{name}/{place}") for place, one in enumerate(given)]
        try:
            await self._context.map(name, calls)
        except ChildFailed:
            return

    def _over(self, children: Sequence[Child[Any]], results: tuple[object, ...] | None) -> None:
        self._evidence.awaited.append(
            Awaited(
                parent=self._run.id,
                fence=self._run.fence,
                at_us=self._bodies.now_us(),
                ids=tuple(child.id for child in children),
                results=results,
            )
        )

    # -- the rest

    async def _fail(self, times: int, *, number: int) -> None:
        """Fail in the first runs that come here."""
        if self._bodies.count(self._run.id, f"action {number}") <= times:
            raise SimulatedError(self._run.token)

    async def _stop(self) -> None:
        raise Fail(self._run.token)

    async def _do(self, step: str) -> None:
        """An action of a plain body."""
        verb, _, number = step.partition(" ")
        await ACTIONS[verb](self._run, self._context, float(number or 0))
