"""The bodies that nodes run for tasks: the task's function, with fresh database connections and Django's signals."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import replace
from traceback import format_exception
from typing import Any, cast

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import close_old_connections, connections
from django.utils import timezone

from peerjob import Context
from peerjob.model.errors import Snooze
from peerjob.model.ids import id_time_us
from peerjob.model.policy import FinishedResult

from .framework import (
    AnyTask,
    TaskContext,
    TaskError,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from .results import PeerjobResult
from .tasks import moment, parts_of
from .values import as_json

HOME = f"{__package__}.process"
"""The module in which a process of a node finds a body by its name."""


def make_body(task: AnyTask, alias: str, name: str) -> Callable[..., Any]:
    """The callable of a task's job, on nodes of the backend `alias`; `name` is its name in HOME.

    Its parameters are those of the function without annotations, since a task gets its arguments unchanged, as JSON.
    """
    body = _async_body(task, alias) if inspect.iscoroutinefunction(task.func) else _sync_body(task, alias)
    made: Any = body
    made.__module__, made.__name__, made.__qualname__, made.__doc__ = HOME, name, name, task.func.__doc__
    signature = inspect.signature(task.func)
    parameters = list(signature.parameters.values())[1 if task.takes_context else 0 :]
    made.__signature__ = signature.replace(
        parameters=[parameter.replace(annotation=parameter.empty) for parameter in parameters],
        return_annotation=signature.empty,
    )
    return body


def _sync_body(task: AnyTask, alias: str) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> Any:
        close_old_connections()
        try:
            run = _TaskRun(task, alias, args, kwargs)
            task_started.send_robust(run.sender, task_result=run.result)
            try:
                value = run.ended(task.func(*run.arguments, **kwargs))
            except BaseException as error:
                if run.failed(error):
                    task_finished.send_robust(run.sender, task_result=run.result)
                raise
            task_finished.send_robust(run.sender, task_result=run.result)
            return value
        finally:
            close_old_connections()

    return body


def _async_body(task: AnyTask, alias: str) -> Callable[..., Any]:
    async def body(*args: Any, **kwargs: Any) -> Any:
        # as for each request under ASGI, the sync calls of each task have a thread of their own, with its connections
        async with ThreadSensitiveContext():
            try:
                run = _TaskRun(task, alias, args, kwargs)
                await task_started.asend_robust(run.sender, task_result=run.result)
                try:
                    value = run.ended(await task.func(*run.arguments, **kwargs))
                except BaseException as error:
                    where = error.__traceback__
                    if run.failed(error):
                        await task_finished.asend_robust(run.sender, task_result=run.result)
                    # asgiref raises the error again around each sync receiver, which adds to its traceback
                    error.__traceback__ = where
                    raise
                await task_finished.asend_robust(run.sender, task_result=run.result)
                return value
            finally:
                # in a task of its own, where asgiref finds no error to raise again
                await asyncio.create_task(_close_connections())

    return body


async def _close_connections() -> None:
    await sync_to_async(connections.close_all)()


class _TaskRun:
    """One run of a task, and the result as the task and the signals see it."""

    def __init__(self, task: AnyTask, alias: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        context, now = Context.current(), timezone.now()
        _, queue = parts_of(context.kind)
        worker = context.worker
        self.result = PeerjobResult(
            task=replace(task, backend=alias, queue_name=queue),
            id=context.id,
            status=TaskResultStatus.RUNNING,
            enqueued_at=moment(id_time_us(context.id)),
            started_at=now,
            finished_at=None,
            last_attempted_at=now,
            args=cast("list[Any]", normalize_json(args)),
            kwargs=cast("dict[str, Any]", normalize_json(kwargs)),
            backend=alias,
            errors=[],
            # the names of earlier workers are in the store, and refresh() reads them
            worker_ids=["" if worker is None else worker.node] * context.attempt,
        )
        self.sender = type(self.result.task.get_backend())
        self.arguments = (TaskContext(task_result=self.result), *args) if task.takes_context else args

    def ended(self, value: Any) -> Any:
        """Keep the return value, and return the value to store; raises as `as_json` does."""
        finished = isinstance(value, FinishedResult)
        plain = as_json(value.result if finished else value)
        self._end(TaskResultStatus.SUCCESSFUL, _return_value=plain)
        return FinishedResult(plain) if finished else plain

    def failed(self, error: BaseException) -> bool:
        """Keep an error; False if it only ends this run: the run was told to end, or put itself off."""
        if isinstance(error, asyncio.CancelledError | Snooze):
            return False
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        task_error = TaskError(exception_class_path=path, traceback="".join(format_exception(error)))
        self._end(TaskResultStatus.FAILED, errors=[task_error])
        return True

    def _end(self, status: TaskResultStatus, **values: Any) -> None:
        for name, value in {"status": status, "finished_at": timezone.now(), **values}.items():
            object.__setattr__(self.result, name, value)
