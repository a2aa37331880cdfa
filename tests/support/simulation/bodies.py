"""The jobs of a random program. Their bodies write a journal of their own, outside the store."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from peerjob import INJECTED, Context, Fail, Finished, Instance, Job, KeyLimit, Limit, Retry
from peerjob.model.durable_errors import Suspended
from peerjob.model.errors import Snooze

from .evidence import Order, Run
from .limited import limit_key
from .program import Program
from .remains import SPOKEN

VARIABLE: ContextVar[str] = ContextVar("simulated", default="")
"""Each body sets it; no body may find it set."""
LARGE = 100_000
LINES = 3


class SimulatedError(Exception):
    """A body failed because its plan says so."""


class Bodies:
    """The jobs of one program, the journal of their runs, and the instances in answers to callers."""

    def __init__(self, now_us: Callable[[], int], program: Program) -> None:
        self._program = program
        self.runs: list[Run] = []
        self.orders: dict[str, Order] = {}
        self._now_us = now_us
        self._begun: Counter[str] = Counter()

    def job(self, number: int) -> Job[..., Any, Any]:
        """The job of a kind."""
        return Job(f"k{number}", self.body, max_retries=2, backoff=0.2, limits=self.limits())

    def limits(self) -> list[Limit | KeyLimit]:
        """The limits of each kind."""
        program, limits = self._program, list[Limit | KeyLimit]()
        if program.concurrency or program.rate:
            limits.append(Limit("shared", concurrency=program.concurrency or None, rate=program.rate or None))
        if program.key_concurrency:
            limits.append(KeyLimit(_limit_key, concurrency=program.key_concurrency))
        return limits

    def ordered(self, instance: Instance[Any], token: str, options: dict[str, Any] | None = None) -> None:
        """Record an instance from an answer to a caller. An instance that was found by its key is known already."""
        if instance.is_new:
            self.named(instance.id, instance.kind, token, options, instance.priority)

    def named(
        self, id: str, kind: str, token: str, options: dict[str, Any] | None = None, priority: int | None = None
    ) -> None:
        """Record an instance; one without a priority is not judged by its place in the order."""
        given: dict[str, Any] = {"max_retries": 2} | (options or {})
        self.orders[id] = Order(
            id=id,
            kind=kind,
            token=token,
            tags=tuple(given.get("tags", ())),
            priority=0 if priority is None else priority,
            delayed="after" in given or priority is None,
            told_us=self._now_us(),
            max_retries=given["max_retries"],
            max_crashes=given.get("max_crashes", Order.max_crashes),
            key=given.get("key"),
        )

    async def body(self, token: str, plan: list[str], padding: str = "", context: Context = INJECTED) -> Any:
        """The body of every job: does what its plan says for this run, and writes down when it began and ended."""
        step = plan[min(self._begun[context.id], len(plan) - 1)]
        self._begun[context.id] += 1
        return await self.recorded(
            token, context, lambda run: self._do(step, run, context), stubborn=step.startswith("ignore")
        )

    async def recorded(
        self, token: str, context: Context, work: Callable[[Run], Awaitable[Any]], *, stubborn: bool = False
    ) -> Any:
        """Do the work of a body, and write down when it began and ended."""
        worker, instance = context.worker, context.instance
        assert worker is not None
        assert instance is not None
        run = Run(
            id=context.id,
            kind=context.kind,
            node=worker.node,
            fence=context.fence,
            attempt=context.attempt,
            begin_us=self._now_us(),
            token=token,
            tags=instance.tags,
            key=instance.key,
            found=VARIABLE.get(),
            stubborn=stubborn,
        )
        self.runs.append(run)
        VARIABLE.set(f"{context.id} under fence {context.fence}")
        try:
            returned = await work(run)
        except asyncio.CancelledError:
            run.ending = "cancelled"
            raise
        except Snooze:
            run.ending = "snoozed"
            raise
        except Suspended:
            run.ending = "suspended"
            raise
        except BaseExceptionGroup as group:
            run.ending = "suspended" if group.split(Suspended)[1] is None else "raised"
            raise
        except Exception:
            run.ending = "raised"
            raise
        else:
            run.ending = "returned"
            return returned
        finally:
            run.end_us = self._now_us()
            run.asked = context.cancel_reason

    async def _do(self, step: str, run: Run, context: Context) -> Any:
        verb, _, number = step.partition(" ")
        run.result = [run.token, run.fence]
        action = ACTIONS.get(verb)
        if action is not None:
            await action(run, context, float(number or 0))
        elif verb == "finish":
            await _through_one_cancellation(float(number))
            return Finished(run.result)
        elif verb == "large":
            run.result = [run.token, run.fence, "x" * LARGE]
        elif verb == "child":
            assert context.manager is not None
            child = await context.manager.schedule(f"{run.kind}", f"{run.token}/child", ["return"])
            self.ordered(child, f"{run.token}/child")
        return run.result


def _limit_key(arguments: Any) -> str:
    return limit_key(arguments.token)


async def _sleep(_run: Run, context: Context, seconds: float) -> None:
    await context.sleep(seconds)


async def _fail(run: Run, _context: Context, _: float) -> None:
    raise SimulatedError(run.token)


async def _stop(run: Run, _context: Context, _: float) -> None:
    raise Fail(run.token)


async def _again(run: Run, _context: Context, seconds: float) -> None:
    raise Retry(after=seconds, reason=run.token)


async def _snooze(_run: Run, context: Context, seconds: float) -> None:
    context.snooze(seconds)


async def _ignore(_run: Run, _context: Context, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while (left := until - loop.time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


async def _partly(_run: Run, _context: Context, seconds: float) -> None:
    await _through_one_cancellation(seconds)


async def _lines(run: Run, context: Context, count: float) -> None:
    for number in range(round(count)):
        context.log_line(logging.INFO, f"{SPOKEN}{run.token} line {number}")
        await asyncio.sleep(0.01)


async def _progress(run: Run, context: Context, _: float) -> None:
    for done in (0.1, 0.5, 1.0):
        context.progress(done, f"{SPOKEN}{run.token} works")
        await asyncio.sleep(0.02)


async def _owner(_run: Run, context: Context, _: float) -> None:
    await context.assert_owner()


async def _through_one_cancellation(seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return


ACTIONS: dict[str, Callable[[Run, Context, float], Awaitable[None]]] = {
    "sleep": _sleep,
    "fail": _fail,
    "stop": _stop,
    "again": _again,
    "snooze": _snooze,
    "ignore": _ignore,
    "partly": _partly,
    "lines": _lines,
    "progress": _progress,
    "owner": _owner,
}
