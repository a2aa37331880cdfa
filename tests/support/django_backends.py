"""Two backends that Django's own tests take for the dummy backend and for the immediate one."""

from __future__ import annotations

import contextvars
from typing import Any, ParamSpec, TypeVar

from peerjob.django import TaskBackend
from peerjob.django.framework import AnyResult, Task, TaskResult
from peerjob.django.jobs import project_jobs, project_tasks
from peerjob.django.results import result_of
from peerjob.django.task_store import task_store_of

P = ParamSpec("P")
R = TypeVar("R")


class StoringBackend(TaskBackend):
    """Stores tasks, and runs none."""

    @property
    def results(self) -> list[AnyResult]:
        """The results of all tasks, oldest first."""
        page = task_store_of(self.checked_options).manager.lookup_instances()
        return [result_of(self.alias, found.instance) for found in page]

    def clear(self) -> None:
        """Remove all tasks."""
        task_store_of(self.checked_options).manager.clear()


class RunningBackend(TaskBackend):
    """Runs a node until the task has ended."""

    def enqueue(self, task: Task[P, R], args: list[Any], kwargs: dict[str, Any]) -> TaskResult[P, R]:
        result = super().enqueue(task, args, kwargs)
        jobs = project_jobs(self.alias, project_tasks(), {task.queue_name})

        def run() -> None:
            with self.checked_options.node(jobs, workers=1).blocking() as manager:
                manager.lookup_instance(result.id).wait(timeout=30)

        # a node starts in the context of no call: in that of an aenqueue(), async tasks would wait for its thread
        contextvars.Context().run(run)
        result.refresh()
        return result
