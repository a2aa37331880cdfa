# pyright: reportPrivateUsage=false
# this file and ../loop.py alone know how asyncio's selector loop is made inside
"""TaskSorter of one event loop: all that runs for one node, so that it can stand still or vanish as a process can.

A lane is a context variable. Tasks, callbacks and timers inherit it from the code that makes them. A paused lane runs
no step; its steps and timers wait. A dropped lane never runs again: no `except` and no `finally` of it is entered.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

from peerjob.cluster.lease import Lease
from peerjob.cluster.role import BackgroundRole

T = TypeVar("T")

_LANE: ContextVar[NodeTasks | None] = ContextVar("peerjob-lane", default=None)
_ROLE: ContextVar[str] = ContextVar("peerjob-role", default="")
_MAX_AWAITS = 100
"""Most awaits in the `finally` of a coroutine that is thrown away."""
_KEEP = ("lease", "election")
"""Roles whose helper tasks are a part of them."""


class NodeTasks:
    """All that runs for one start of a node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = True
        self.dropped = False
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the lane was dropped."""
        self.tasks: set[asyncio.Task[Any]] = set()
        self.steps: list[asyncio.Handle] = []
        """What a paused lane would have run by now."""
        self.timers: list[asyncio.TimerHandle] = []
        self.moved: asyncio.Event = asyncio.Event()
        self.moved.set()

    @property
    def paused(self) -> bool:
        """Whether it stands still, and may go on."""
        return not (self.runs or self.dropped)


class TaskSorter:
    """Sorts what the running loop runs into lanes, from `install` until `uninstall`."""

    def __init__(self) -> None:
        self._loop = cast("_Loop", asyncio.get_running_loop())
        self._dropped: deque[tuple[NodeTasks, asyncio.Task[Any]]] = deque()
        self._call_soon: Callable[..., asyncio.Handle]
        self._make_task: Callable[..., asyncio.Task[Any]] | None

    def install(self) -> None:
        """Begin; the loop is on virtual time already."""
        self._call_soon = self._loop.call_soon
        self._make_task = cast("Callable[..., asyncio.Task[Any]] | None", self._loop.get_task_factory())
        setattr(self._loop, "call_soon", self._soon)  # noqa: B010  # a method, on purpose
        self._loop.set_task_factory(cast(Any, self._new_task))

    def uninstall(self) -> None:
        """End. The code of dropped lanes is thrown away: what it has in `finally` runs, but for what that awaits."""
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # what is thrown away may complain of it
        lanes: dict[NodeTasks, None] = {}
        try:
            while self._dropped:  # what is thrown away may begin more
                lane, task = self._dropped.popleft()
                lanes[lane] = None
                _throw_away(lane, task)
        finally:
            logging.disable(level)
        for lane in lanes:
            self._taken(lane)
        delattr(self._loop, "call_soon")
        self._loop.set_task_factory(cast(Any, self._make_task))

    def start(self, lane: NodeTasks, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work in a lane."""
        context = copy_context()
        context.run(_LANE.set, lane)
        return self._loop.create_task(work, context=context)

    def is_in(self, lane: NodeTasks) -> bool:
        """Whether the caller runs in this lane."""
        return _LANE.get() is lane

    def pause(self, lane: NodeTasks) -> None:
        """Run no step of a lane until `resume`."""
        lane.runs = False
        lane.moved.clear()
        lane.steps, lane.timers = self._taken(lane)

    def resume(self, lane: NodeTasks) -> None:
        """Let a paused lane go on: first what it would have run, then the timers that are late."""
        lane.runs = True
        for timer in lane.timers:
            if not timer.cancelled():
                heapq.heappush(self._loop._scheduled, cast("_TaskTimer", timer))
                cast("_TaskTimer", timer)._scheduled = True
        self._loop._ready.extend(step for step in lane.steps if not step.cancelled())
        lane.steps, lane.timers = [], []
        lane.moved.set()

    def drop(self, lane: NodeTasks) -> None:
        """Never run anything of a lane again."""
        lane.runs, lane.dropped = False, True
        self._taken(lane)
        lane.steps, lane.timers = [], []
        for task in lane.tasks:
            self._give_up(lane, task)
        lane.tasks = set()
        lane.moved.set()
        lane.end.set_result(None)

    # -- inside

    def _soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        lane = _LANE.get() if context is None else context.get(_LANE)
        if lane is None or lane.runs:
            return self._call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self._loop, context)
        if not lane.dropped:
            lane.steps.append(handle)
        return handle

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        make = self._make_task
        context: Context | None = options.get("context")
        parent = _ROLE.get() if context is None else context.get(_ROLE, "")
        role = _role_of(work) or (parent if parent in _KEEP else "")
        if role != parent:
            context = options["context"] = copy_context() if context is None else context
            context.run(_ROLE.set, role)
        task: asyncio.Task[Any] = (
            asyncio.Task(work, loop=loop, **options) if make is None else make(loop, work, **options)
        )
        lane = _LANE.get() if context is None else context.get(_LANE)
        if lane is not None and lane.dropped:
            self._give_up(lane, task)
        elif lane is not None:
            lane.tasks.add(task)
            # in a context of its own: no step of a lane that stands still
            task.add_done_callback(lane.tasks.discard, context=Context())
        return task

    def _give_up(self, lane: NodeTasks, task: asyncio.Task[Any]) -> None:
        """Keep a task that never runs again until the end: to free it would run its `finally`."""
        # the loop's end neither cancels it nor complains of it
        asyncio._unregister_task(task)
        cast("_Task", task)._log_destroy_pending = False
        self._dropped.append((lane, task))

    def _taken(self, lane: NodeTasks) -> tuple[list[asyncio.Handle], list[asyncio.TimerHandle]]:
        """Take what a lane would run, now and at its times, out of the loop."""
        loop = self._loop
        steps = [step for step in loop._ready if _lane_of(step) is lane]
        if steps:
            # the loop has counted what is ready, so a step that does nothing takes the place of each
            left = [_nothing(loop) if _lane_of(step) is lane else step for step in loop._ready]
            loop._ready.clear()
            loop._ready.extend(left)
        timers = [timer for timer in loop._scheduled if _lane_of(timer) is lane and not timer.cancelled()]
        if timers:
            loop._scheduled[:] = [timer for timer in loop._scheduled if _lane_of(timer) is not lane]
            heapq.heapify(loop._scheduled)
            for timer in timers:
                timer._scheduled = False
            timers.sort()
        return steps, cast(Any, timers)


def _throw_away(lane: NodeTasks, task: asyncio.Task[Any]) -> None:
    """Close the coroutine of a task that never runs again."""
    coroutine = cast("Coroutine[Any, Any, Any]", task.get_coro())
    # a context in which peerjob knows that this is no end of a run, and from which nothing runs
    context = Context()
    context.run(_LANE.set, lane)
    for _ in range(_MAX_AWAITS):
        if context.run(_closes, coroutine):
            return


def _closes(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Whether a coroutine ends when it is closed, and does not await anything in a `finally`."""
    try:
        coroutine.close()
    except RuntimeError as error:
        return "ignored GeneratorExit" not in str(error)
    except BaseException:  # noqa: BLE001  # whatever it ends with
        return True
    return True


def role_of(timer: asyncio.TimerHandle) -> str:
    """The name of the role of a node that waits for a timer; "" for every other one, and for nodes in no lane."""
    context = cast("_Handle", timer)._context
    return "" if context.get(_LANE) is None else context.get(_ROLE, "")


def _role_of(work: Coroutine[Any, Any, Any]) -> str:
    """The name of the role whose loop this is, or ""."""
    code = getattr(work, "cr_code", None)
    if code is Lease._main.__code__:
        return "lease"
    return str(cast(Any, work).cr_frame.f_locals["self"].name) if code is BackgroundRole._supervise.__code__ else ""


def _nothing(loop: asyncio.AbstractEventLoop) -> asyncio.Handle:
    handle = asyncio.Handle(Context, (), loop, Context())
    handle.cancel()
    return handle


def _lane_of(handle: asyncio.Handle) -> NodeTasks | None:
    return cast("_Handle", handle)._context.get(_LANE)


class _Handle(asyncio.Handle):
    """What of a handle is used here."""

    _context: Context


class _TaskTimer(asyncio.TimerHandle):
    """What of a timer is used here."""

    _context: Context
    _scheduled: bool


class _Task(asyncio.Task[Any]):
    """What of a task is used here."""

    _log_destroy_pending: bool


class _Loop(asyncio.SelectorEventLoop):
    """What of a loop is used here."""

    _ready: Any
    _scheduled: list[_TaskTimer]
