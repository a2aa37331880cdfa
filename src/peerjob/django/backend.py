"""The backend of Django's tasks framework that keeps tasks as jobs of peerjob."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

from django.apps import apps
from django.core import checks
from django.db import connections, transaction

from peerjob import Call, Job, OptionError, PeerjobError, UnknownInstanceError
from peerjob.model.ids import id_time_us
from peerjob.sql.tables import checked_dialect
from peerjob.store.drivers import check_file

from .framework import (
    VERSION,
    AnyResult,
    AnyTask,
    BaseTaskBackend,
    InvalidTask,
    InvalidTaskBackend,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    task_enqueued,
)
from .jobs import job_for
from .options import EXPECTED, BackendOptions, read_options
from .results import READY, PeerjobResult, result_of
from .task_store import TaskStore, task_store_of
from .tasks import PeerjobTask, moment
from .values import as_json

P = ParamSpec("P")
R = TypeVar("R")

MAX_JOBS = 1_000
"""Most tasks whose check and job a backend keeps."""


class TaskBackend(BaseTaskBackend):
    """Keeps tasks in a store of peerjob. `manage.py peerjob` runs them.

    OPTIONS, all of which may be left out:

    - `store`: the URL of the store (default: SQLite, in the file `peerjob.db` of BASE_DIR).
    - `coordinator`: the URL of the service that elects the leader (default: the store).
    - `credentials`: a `CredentialProvider` of redis-py, as in `Node`, for a store on Redis or Valkey.
    - `namespace`: separates the applications of one store (default: `"default"`).
    - `enqueue_on_commit`: inside of a transaction, store a task when the transaction commits (default: True). Its id is
      known at once. Until the commit, `refresh()` raises TaskResultDoesNotExist.
    - `outbox`: True, or an alias of DATABASES: write a task as a row of that database, in the transaction of the
      request; `manage.py peerjob` sends it after the commit. It needs the app `peerjob.django.outbox` (default: False).

    Invalid options are errors of `manage.py check`, and raise InvalidTaskBackend at each use of the backend.
    """

    task_class = PeerjobTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._jobs: dict[int, tuple[AnyTask, Job[..., Any, Any]]] = {}
        self._store: TaskStore | None = None
        self._checked: BackendOptions | InvalidTaskBackend
        try:
            self._checked = read_options(alias, self.options)
        except InvalidTaskBackend as error:
            # a task's decorator makes the backend, so an error here would hide the system checks behind a traceback
            self._checked = error

    @property
    def checked_options(self) -> BackendOptions:
        """The OPTIONS; raises InvalidTaskBackend if they are invalid."""
        if isinstance(self._checked, InvalidTaskBackend):
            raise self._checked
        return self._checked

    def validate_task(self, task: AnyTask) -> None:
        """Raise InvalidTask for a task that cannot be enqueued here."""
        if task.run_after is not None and not _is_datetime(task.run_after):
            raise InvalidTask(f"run_after must be an aware datetime, got {type(task.run_after).__name__}")
        super().validate_task(task)

    def enqueue(self, task: Task[P, R], args: list[Any], kwargs: dict[str, Any]) -> TaskResult[P, R]:
        """Store one run of a task and return its result, which is READY.

        Raises InvalidTask, ArgumentError or PayloadTooLargeError for an invalid call, and TypeError or ValueError for
        an argument that JSON lacks: at once and also inside of a transaction. Raises StoreUnavailableError or
        StoreFullError if the store cannot take the run, and TableError for an outbox without tables.
        """
        job = self._checked_job(task)
        args, kwargs = as_json(args), as_json(kwargs) if kwargs else {}
        call = Call(job, tuple(args), kwargs)
        options = self.checked_options
        outbox = options.outbox_alias
        if outbox is not None:
            id = self._tasks.outbox.schedule_in_autocommit(connections[outbox], call).id
        elif options.enqueue_on_commit and (waiting := open_transactions()):
            return self._enqueue_later(waiting, task, call, args)
        else:
            try:
                id = self._tasks.store_new(call)
            except OptionError as error:
                raise self._named(error) from error
        result = self._result(task, id, args, kwargs, moment(id_time_us(id)))
        task_enqueued.send_robust(type(self), task_result=result)
        return result

    def _enqueue_later(self, waiting: set[str], task: Task[P, R], call: Call[Any], args: list[Any]) -> TaskResult[P, R]:
        """Store a task when these transactions commit."""
        tasks, id = self._tasks, self._tasks.new_id(call)
        # a change of the result must not change the call
        result = self._result(task, id, as_json(args), as_json(call.kwargs), None)

        def store() -> None:
            try:
                tasks.store(id, call)
            except OptionError as error:
                raise self._named(error) from error
            object.__setattr__(result, "enqueued_at", moment(id_time_us(id)))
            task_enqueued.send_robust(type(self), task_result=result)

        after_commit(waiting, store)
        return result

    def _checked_job(self, task: AnyTask) -> Job[..., Any, Any]:
        """The job for a call of a task; raises InvalidTask.

        A task cannot change, so its answer is kept. The check of a time depends on settings.
        """
        known = self._jobs.get(id(task))
        if known is not None and known[0] is task:
            return known[1]
        self.validate_task(task)
        job = job_for(self.alias, task)
        if task.run_after is None:
            if len(self._jobs) >= MAX_JOBS:
                self._jobs.clear()
            self._jobs[id(task)] = task, job
        return job

    def _result(
        self, task: Task[P, R], id: str, args: list[Any], kwargs: dict[str, Any], enqueued_at: datetime | None
    ) -> TaskResult[P, R]:
        """A result whose arguments are as JSON has them."""
        result: TaskResult[Any, Any] = PeerjobResult(
            task=task,
            id=id,
            status=READY,
            enqueued_at=enqueued_at,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        return result

    def get_result(self, result_id: str) -> AnyResult:
        """Read a result; raises TaskResultDoesNotExist, also after retention has removed it."""
        try:
            instance = self._tasks.read(result_id)
        except UnknownInstanceError:
            raise TaskResultDoesNotExist(result_id) from None
        except OptionError as error:
            if error.option == "uuid":
                raise TaskResultDoesNotExist(result_id) from None
            raise self._named(error) from error
        return result_of(self.alias, instance)

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """The problems of the settings of this backend."""
        where = f"TASKS[{self.alias!r}]"
        problems: list[checks.CheckMessage] = []
        try:
            self.checked_options.node()
        except InvalidTaskBackend as error:
            problems.append(checks.Error(str(error), id="peerjob.E001"))
        except PeerjobError as error:
            problems.append(checks.Error(f"{where}['OPTIONS']: {error}", id="peerjob.E002"))
        else:
            alias = self.checked_options.outbox_alias
            if alias is not None and not apps.is_installed("peerjob.django.outbox"):
                text = f"{where} uses an outbox, but INSTALLED_APPS has no 'peerjob.django.outbox'."
                problems.append(checks.Warning(text, hint="Its migration makes the tables.", id="peerjob.W004"))
            try:
                self.check_outbox()
            except InvalidTaskBackend as error:
                problems.append(checks.Error(str(error), id="peerjob.E003"))
            try:
                check_file(self.checked_options.store)
            except OptionError as error:
                # no error: a command that builds an image can run before a volume has the folder
                hint = "Make the folder, or correct `store`: each use of the backend raises this error."
                problems.append(checks.Warning(f"{where}['OPTIONS']: {error}", hint=hint, id="peerjob.W005"))
            if self.checked_options.store.startswith("memory:"):
                hint = "Use sqlite:///… on one machine, or redis:// for several."
                text = f"{where}: the store memory:// is lost with its process, and no other process sees it."
                problems.append(checks.Warning(text, hint=hint, id="peerjob.W001"))
        if not apps.is_installed("peerjob.django"):
            text = f"{where} uses peerjob, but INSTALLED_APPS has no 'peerjob.django'."
            problems.append(checks.Warning(text, hint="It brings `manage.py peerjob`.", id="peerjob.W002"))
        if VERSION >= (6, 0) and apps.is_installed("django_tasks"):
            text = "peerjob works with django.tasks of this Django, and not with the package django_tasks."
            hint = "Remove 'django_tasks' from INSTALLED_APPS, and import `task` from django.tasks."
            problems.append(checks.Warning(text, hint=hint, id="peerjob.W003"))
        return problems

    def check_outbox(self) -> None:
        """Raise InvalidTaskBackend for an outbox in an unknown database, or in one of another kind."""
        alias = self.checked_options.outbox_alias
        if alias is None:
            return
        where = f"TASKS[{self.alias!r}]['OPTIONS']"
        if alias not in connections:
            raise InvalidTaskBackend(f"{where}['outbox']: expected True or an alias of DATABASES, got {alias!r}")
        try:
            checked_dialect(connections[alias].vendor, "outbox")
        except OptionError as error:
            raise InvalidTaskBackend(f"{where}: {error}") from error

    @property
    def _tasks(self) -> TaskStore:
        # no cached_property: before Python 3.12 it has a lock, which a fork could copy locked
        if self._store is None:
            self.check_outbox()
            try:
                self._store = task_store_of(self.checked_options)
            except OptionError as error:
                raise self._named(error) from error
        return self._store

    def _named(self, error: OptionError) -> PeerjobError | InvalidTaskBackend:
        """An error of a node of this backend, with the setting if it is about one of OPTIONS."""
        if error.option not in EXPECTED:
            return error
        return InvalidTaskBackend(f"TASKS[{self.alias!r}]['OPTIONS']: {error}")


def _is_datetime(value: object) -> bool:
    return isinstance(value, datetime)


def open_transactions() -> set[str]:
    """The aliases of the databases with an open transaction in this thread."""
    # as connections.all(initialized_only=True), which looks twice for each connection
    handler: Any = connections
    made, waiting = handler._connections, set[str]()
    for alias in connections:
        connection = getattr(made, alias, None)
        if connection is not None and connection.in_atomic_block:
            waiting.add(connection.alias)
    return waiting


def after_commit(aliases: set[str], call: Callable[[], None]) -> None:
    """Call a function when the open transactions of these databases have committed; never if one rolls back."""
    waiting = set(aliases)

    def committed(alias: str) -> None:
        waiting.discard(alias)
        if not waiting:
            call()

    for alias in sorted(aliases):
        transaction.on_commit(functools.partial(committed, alias), using=alias)
