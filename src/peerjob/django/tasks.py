"""Tasks of Django as jobs of peerjob: their options, their kinds, and how a name leads to a task."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar, cast

from django.apps import apps
from django.conf import settings
from django.utils import timezone
from typing_extensions import Unpack

from peerjob import OptionError
from peerjob.model.clock import to_datetime
from peerjob.model.policy import Options, checked

from .framework import DEFAULT_TASK_QUEUE_NAME, AnyTask, BaseTaskBackend, InvalidTask, Task, task_backends

T = TypeVar("T", bound=AnyTask)

_DJANGO_HAS = {
    "priority": "using(priority=…)",
    "at": "using(run_after=…)",
    "after": "using(run_after=…)",
    "key": "no key: enqueue() gives each call a result of its own",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerjobTask(AnyTask):
    """A task with options of peerjob, such as retries. `with_options` sets them."""

    options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    """Options of a job, as `peerjob.job` takes them."""

    def get_backend(self) -> BaseTaskBackend:
        """The backend, as in Django, whose method runs an import statement for each call."""
        return task_backends[self.backend]


def with_options(**options: Unpack[Options]) -> Callable[[T], T]:
    """Give a task options of peerjob: `@with_options(max_retries=3, backoff="10s")` above `@task`.

    The options are those of `peerjob.job`, without priority, at, after and key. Raises OptionError for any other or
    invalid one. A task of another backend stays as it is, so that tests can run tasks with a backend of Django.
    """
    given = cast(dict[str, Any], options)
    for name in given.keys() & _DJANGO_HAS.keys():
        raise OptionError(name, given[name], _DJANGO_HAS[name])
    checked(given)

    def decorate(task: T) -> T:
        return replace(task, options={**task.options, **given}) if isinstance(task, PeerjobTask) else task

    return decorate


def options_of(task: AnyTask) -> Mapping[str, Any]:
    """The options of peerjob that a task has."""
    return task.options if isinstance(task, PeerjobTask) else {}


# -- kinds -------------------------------------------------------------------------------------------------------


def kind_of(path: str, queue: str) -> str:
    """The kind of a task in a queue: nodes claim by kind, so each queue of a task is a kind of its own."""
    return path if queue == DEFAULT_TASK_QUEUE_NAME else f"{path}@{queue}"


def parts_of(kind: str) -> tuple[str, str]:
    """The module path of the task, and the queue, of a kind."""
    path, _, queue = kind.partition("@")
    return path, queue or DEFAULT_TASK_QUEUE_NAME


def moment(time_us: int) -> datetime:
    """A time in microseconds as Django has it: aware, or naive in the current zone without USE_TZ."""
    moment = to_datetime(time_us)
    return moment if settings.USE_TZ else timezone.make_naive(moment)


# -- names -------------------------------------------------------------------------------------------------------


def find_task(path: str) -> AnyTask:
    """The task of a module path. Imports the module; raises ImportError or InvalidTask."""
    task = _in_module(importlib.import_module(path.rpartition(".")[0]), path)
    if task is None:
        raise InvalidTask(f"{path} is no task: expected an attribute of that module which @task has made")
    return task


def find_stored_task(path: str) -> AnyTask | None:
    """The task of a module path that was read from the store; None if there is none.

    Imports only modules of installed apps: a stored name must not choose any module of the machine.
    """
    name = path.rpartition(".")[0]
    if name not in sys.modules:
        if apps.get_containing_app_config(name) is None:
            return None
        try:
            importlib.import_module(name)
        except ImportError:
            return None
    return _in_module(sys.modules[name], path)


def tasks_in(module: object) -> list[AnyTask]:
    """The tasks that a module defines, without those that it imports."""
    name = getattr(module, "__name__", None)
    # isinstance() would ask lazy objects for their class, which makes them
    values: list[Any] = list(getattr(module, "__dict__", {}).values())
    return [value for value in values if issubclass(type(value), Task) and value.func.__module__ == name]


def _in_module(module: object, path: str) -> AnyTask | None:
    named = inspect.getattr_static(module, path.rpartition(".")[2], None)
    matches = [task for task in tasks_in(module) if task.module_path == path]
    # a module can have several variants of a task; the one with the name of the function is its definition
    return next((task for task in matches if task is named), matches[0] if matches else None)
