"""Stored instances as task results."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from peerjob import Instance, State
from peerjob.model.codec import decode_value
from peerjob.model.ids import id_time_us

from .framework import AnyResult, AnyTask, TaskError, TaskResultDoesNotExist, TaskResultStatus, normalize_json
from .tasks import find_stored_task, moment, parts_of

MEDIUM = 5
"""The number in peerjob of Django's priority 0."""
READY = TaskResultStatus.READY
"""Each call of `enqueue` needs it, and Python finds a name of a module in a small part of the time."""
_STATUS = {
    State.PROCESSING: TaskResultStatus.RUNNING,
    State.COMPLETED: TaskResultStatus.SUCCESSFUL,
    State.TERMINATED: TaskResultStatus.FAILED,
    State.CANCELLED: TaskResultStatus.FAILED,
    State.TIMED_OUT: TaskResultStatus.FAILED,
}
_NO_ERROR = {State.CANCELLED: "peerjob.JobCancelled", State.TIMED_OUT: "peerjob.JobTimedOut"}


class PeerjobResult(AnyResult):
    """A result of a task, whose arguments the caller has normalized."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Leave out Django's method, which normalizes the arguments again."""


def priority_of(django: int) -> int:
    """Convert a priority, in both directions: Django runs the highest first, and peerjob the lowest."""
    return MEDIUM - django


def result_of(alias: str, instance: Instance[object]) -> AnyResult:
    """The result of a stored instance; raises TaskResultDoesNotExist if it is of no task that this project has."""
    path, queue = parts_of(instance.kind)
    task = find_stored_task(path)
    if task is None:
        raise TaskResultDoesNotExist(f"{instance.id} is of {path}, which is no task of this project")
    task = replace(task, backend=alias, queue_name=queue, priority=priority_of(instance.priority))
    return _of_task(alias, task, instance)


def _of_task(alias: str, task: AnyTask, instance: Instance[object]) -> AnyResult:
    record = instance.record
    runs = [entry for entry in record.history if entry.state is State.PROCESSING]
    made = PeerjobResult(
        task=task,
        id=instance.id,
        status=_STATUS.get(record.state, TaskResultStatus.READY),
        enqueued_at=moment(id_time_us(instance.id)),
        started_at=moment(runs[0].at_us) if runs else None,
        finished_at=_finished_at(instance),
        last_attempted_at=moment(runs[-1].at_us) if runs else None,
        args=cast("list[Any]", normalize_json(instance.args)),
        kwargs=cast("dict[str, Any]", normalize_json(instance.kwargs)),
        backend=alias,
        errors=_errors(instance),
        # runs that a node handed back or lost do not count as attempts
        worker_ids=[entry.node for entry in runs][len(runs) - record.attempts :],
    )
    if record.state is State.COMPLETED and record.result is not None:
        object.__setattr__(made, "_return_value", decode_value(record.result))
    return made


def _finished_at(instance: Instance[object]) -> datetime | None:
    return moment(instance.record.history[-1].at_us) if instance.state.is_final else None


def _errors(instance: Instance[object]) -> list[TaskError]:
    error = instance.error
    if error is None:
        path = _NO_ERROR.get(instance.state)
        return [] if path is None else [TaskError(exception_class_path=path, traceback="")]
    path = error.type if "." in error.type else f"builtins.{error.type}"
    return [TaskError(exception_class_path=path, traceback=error.traceback or f"{error}\n")]
