"""The jobs of the project's tasks, for nodes and for calls."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from django.utils import timezone
from django.utils.module_loading import autodiscover_modules

from peerjob import Job

from .framework import AnyTask
from .process import body_of
from .results import priority_of
from .tasks import find_task, kind_of, options_of, tasks_in


@functools.lru_cache(maxsize=4096)
def job_of(alias: str, path: str, queue: str) -> Job[..., Any, Any]:
    """The job of a task in a queue, as its module defines it. A recurrence counts in the queue of the definition."""
    task = find_task(path)
    job: Job[..., Any, Any] = Job(kind_of(path, queue), body_of(alias, path), **_options(task))
    return job if queue == task.queue_name else job.untimed()


def job_for(alias: str, task: AnyTask) -> Job[..., Any, Any]:
    """The job for one call of a task, with the options that differ from those of the definition."""
    job = job_of(alias, task.module_path, task.queue_name)
    defined = _defined_options(task.module_path)
    changed = {name: value for name, value in _options(task).items() if defined.get(name) != value}
    if task.run_after is not None:
        changed["at"] = task.run_after if timezone.is_aware(task.run_after) else timezone.make_aware(task.run_after)
    return job.with_options(**changed) if changed else job


@functools.lru_cache(maxsize=4096)
def _defined_options(path: str) -> dict[str, Any]:
    return _options(find_task(path))


def _options(task: AnyTask) -> dict[str, Any]:
    return {"priority": priority_of(task.priority), **options_of(task)}


def project_tasks(modules: Iterable[str] = ()) -> list[AnyTask]:
    """The tasks of all imported modules; imports `tasks` of each installed app, and the named modules."""
    autodiscover_modules("tasks")
    for name in modules:
        importlib.import_module(name)
    tasks = {task.module_path: task for module in list(sys.modules.values()) for task in tasks_in(module)}
    return [tasks[path] for path in sorted(tasks)]


def project_jobs(alias: str, tasks: Sequence[AnyTask], queues: Iterable[str]) -> list[Job[..., Any, Any]]:
    """The jobs by which a node runs tasks of these queues."""
    return [job_of(alias, task.module_path, queue) for task in tasks for queue in sorted(queues)]
