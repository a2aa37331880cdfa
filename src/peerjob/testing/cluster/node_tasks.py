# pyright: reportPrivateUsage=false
# only this file and ../loop.py use the internals of asyncio's selector event loop
"""The tasks of each node on a shared event loop, so that a node can stand still or vanish as a process can.

A context variable holds the `NodeTasks`. Tasks, callbacks and timers inherit it from the code that makes them. While
a node is paused, its steps and timers wait. After a drop they never run: no `except` and no `finally` is entered.
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

_NODE_TASKS: ContextVar[NodeTasks | None] = ContextVar("peerjob-node-tasks", default=None)
_ROLE: ContextVar[str] = ContextVar("peerjob-role", default="")
_MAX_AWAITS = 100
"""Most awaits that the `finally` blocks of a coroutine can do while the coroutine is closed."""
_ROLES_WITH_HELPERS = ("lease", "election")
"""Roles that start further tasks: the timers of these tasks count as timers of the role, too."""


class NodeTasks:
    """The tasks, callbacks and timers of one start of a node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = True
        self.dropped = False
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """A future that is done after the drop."""
        self.tasks: set[asyncio.Task[Any]] = set()
        self.steps: list[asyncio.Handle] = []
        """Steps that became ready to run while the node is paused."""
        self.timers: list[asyncio.TimerHandle] = []
        self.moved: asyncio.Event = asyncio.Event()
        self.moved.set()

    @property
    def paused(self) -> bool:
        """Whether the node stands still, and can resume."""
        return not (self.runs or self.dropped)


class TaskSorter:
    """Assigns the work of the running loop to the nodes, from `install` until `uninstall`."""

    def __init__(self) -> None:
        self._loop = cast("_Loop", asyncio.get_running_loop())
        self._dropped: deque[tuple[NodeTasks, asyncio.Task[Any]]] = deque()
        self._call_soon: Callable[..., asyncio.Handle]
        self._make_task: Callable[..., asyncio.Task[Any]] | None

    def install(self) -> None:
        """Begin. The loop must already be on virtual time."""
        self._call_soon = self._loop.call_soon
        self._make_task = cast("Callable[..., asyncio.Task[Any]] | None", self._loop.get_task_factory())
        setattr(self._loop, "call_soon", self._soon)  # noqa: B010  # type checkers refuse an assignment to a method
        self._loop.set_task_factory(cast(Any, self._new_task))

    def uninstall(self) -> None:
        """End, and close the coroutines of dropped nodes: their `finally` blocks run, except for awaits."""
        level = logging.root.manager.disable
        # closing the coroutines of dropped nodes may log errors, which would disturb the test's output
        logging.disable(logging.CRITICAL)
        dropped: dict[NodeTasks, None] = {}
        try:
            # the `finally` block of a closed coroutine may start more tasks
            while self._dropped:
                node_tasks, task = self._dropped.popleft()
                dropped[node_tasks] = None
                _close(node_tasks, task)
        finally:
            logging.disable(level)
        for node_tasks in dropped:
            self._take_out(node_tasks)
        delattr(self._loop, "call_soon")
        self._loop.set_task_factory(cast(Any, self._make_task))

    def start(self, node_tasks: NodeTasks, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work as a task of a node."""
        context = copy_context()
        context.run(_NODE_TASKS.set, node_tasks)
        return self._loop.create_task(work, context=context)

    def is_in(self, node_tasks: NodeTasks) -> bool:
        """Whether the caller is a task of this node."""
        return _NODE_TASKS.get() is node_tasks

    def pause(self, node_tasks: NodeTasks) -> None:
        """Hold each step of a node until `resume`."""
        node_tasks.runs = False
        node_tasks.moved.clear()
        node_tasks.steps, node_tasks.timers = self._take_out(node_tasks)

    def resume(self, node_tasks: NodeTasks) -> None:
        """Run the steps that a paused node missed, then the timers that are late."""
        node_tasks.runs = True
        for timer in node_tasks.timers:
            if not timer.cancelled():
                heapq.heappush(self._loop._scheduled, cast("_TaskTimer", timer))
                cast("_TaskTimer", timer)._scheduled = True
        self._loop._ready.extend(step for step in node_tasks.steps if not step.cancelled())
        node_tasks.steps, node_tasks.timers = [], []
        node_tasks.moved.set()

    def drop(self, node_tasks: NodeTasks) -> None:
        """Stop a node for good: none of its tasks, callbacks and timers runs again."""
        node_tasks.runs, node_tasks.dropped = False, True
        self._take_out(node_tasks)
        node_tasks.steps, node_tasks.timers = [], []
        for task in node_tasks.tasks:
            self._keep(node_tasks, task)
        node_tasks.tasks = set()
        node_tasks.moved.set()
        node_tasks.end.set_result(None)

    # -- helpers

    def _soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        node_tasks = _NODE_TASKS.get() if context is None else context.get(_NODE_TASKS)
        if node_tasks is None or node_tasks.runs:
            return self._call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self._loop, context)
        if not node_tasks.dropped:
            node_tasks.steps.append(handle)
        return handle

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        make = self._make_task
        context: Context | None = options.get("context")
        parent = _ROLE.get() if context is None else context.get(_ROLE, "")
        role = _role_of(work) or (parent if parent in _ROLES_WITH_HELPERS else "")
        if role != parent:
            context = options["context"] = copy_context() if context is None else context
            context.run(_ROLE.set, role)
        task: asyncio.Task[Any] = (
            asyncio.Task(work, loop=loop, **options) if make is None else make(loop, work, **options)
        )
        node_tasks = _NODE_TASKS.get() if context is None else context.get(_NODE_TASKS)
        if node_tasks is not None and node_tasks.dropped:
            self._keep(node_tasks, task)
        elif node_tasks is not None:
            node_tasks.tasks.add(task)
            # call back in an empty context: a callback in the node's context would wait while the node is paused
            task.add_done_callback(node_tasks.tasks.discard, context=Context())
        return task

    def _keep(self, node_tasks: NodeTasks, task: asyncio.Task[Any]) -> None:
        """Keep a task of a dropped node until `uninstall`: freeing the task would run its `finally` blocks."""
        # unregister the task, so that the end of the event loop neither cancels the task nor logs a warning
        asyncio._unregister_task(task)
        cast("_Task", task)._log_destroy_pending = False
        self._dropped.append((node_tasks, task))

    def _take_out(self, node_tasks: NodeTasks) -> tuple[list[asyncio.Handle], list[asyncio.TimerHandle]]:
        """Remove the ready steps and the timers of a node from the event loop, and return them."""
        loop = self._loop
        steps = [step for step in loop._ready if _node_tasks_of(step) is node_tasks]
        if steps:
            # asyncio has counted the ready steps of this iteration already: put an empty step instead of each removed
            # step
            left = [_empty_step(loop) if _node_tasks_of(step) is node_tasks else step for step in loop._ready]
            loop._ready.clear()
            loop._ready.extend(left)
        timers = [timer for timer in loop._scheduled if _node_tasks_of(timer) is node_tasks and not timer.cancelled()]
        if timers:
            loop._scheduled[:] = [timer for timer in loop._scheduled if _node_tasks_of(timer) is not node_tasks]
            heapq.heapify(loop._scheduled)
            for timer in timers:
                timer._scheduled = False
            timers.sort()
        return steps, cast(Any, timers)


def _close(node_tasks: NodeTasks, task: asyncio.Task[Any]) -> None:
    """Close the coroutine of a task that belongs to a dropped node."""
    coroutine = cast("Coroutine[Any, Any, Any]", task.get_coro())
    # in a context of the dropped node, peerjob does not report the end of a run, and new tasks never run
    context = Context()
    context.run(_NODE_TASKS.set, node_tasks)
    for _ in range(_MAX_AWAITS):
        if context.run(_try_close, coroutine):
            return


def _try_close(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """Close a coroutine. Return False if the coroutine has not ended, because a `finally` block awaits."""
    try:
        coroutine.close()
    except RuntimeError as error:
        return "ignored GeneratorExit" not in str(error)
    except BaseException:  # noqa: BLE001  # a coroutine can end with any error when it is closed
        return True
    return True


def role_of(timer: asyncio.TimerHandle) -> str:
    """The name of the node's role that waits for a timer; "" for all other timers."""
    context = cast("_Handle", timer)._context
    return "" if context.get(_NODE_TASKS) is None else context.get(_ROLE, "")


def belongs_to(timer: asyncio.TimerHandle, node_tasks: NodeTasks) -> bool:
    """Whether a timer is one of a node."""
    return _node_tasks_of(timer) is node_tasks


def _role_of(work: Coroutine[Any, Any, Any]) -> str:
    """Return the name of the role whose main coroutine `work` is, or "" for all other coroutines."""
    code = getattr(work, "cr_code", None)
    if code is Lease._main.__code__:
        return "lease"
    return str(cast(Any, work).cr_frame.f_locals["self"].name) if code is BackgroundRole._supervise.__code__ else ""


def _empty_step(loop: asyncio.AbstractEventLoop) -> asyncio.Handle:
    handle = asyncio.Handle(Context, (), loop, Context())
    handle.cancel()
    return handle


def _node_tasks_of(handle: asyncio.Handle) -> NodeTasks | None:
    return cast("_Handle", handle)._context.get(_NODE_TASKS)


class _Handle(asyncio.Handle):
    """The attributes of a handle that this module uses."""

    _context: Context


class _TaskTimer(asyncio.TimerHandle):
    """The attributes of a timer that this module uses."""

    _context: Context
    _scheduled: bool


class _Task(asyncio.Task[Any]):
    """The attributes of a task that this module uses."""

    _log_destroy_pending: bool


class _Loop(asyncio.SelectorEventLoop):
    """The attributes of a loop that this module uses."""

    _ready: Any
    _scheduled: list[_TaskTimer]
