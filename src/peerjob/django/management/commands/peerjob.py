"""`manage.py peerjob`: a node that runs the tasks of the project."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from django.db import connections

from peerjob import AuthError, Node, OptionError, PeerjobError, ScheduleError, StoreUnavailableError
from peerjob.cli import event_loop
from peerjob.cli.daemon.logs import HumanFormatter
from peerjob.cli.daemon.service import GracefulServer, ProbeServer, Service
from peerjob.django.backend import TaskBackend
from peerjob.django.framework import DEFAULT_TASK_BACKEND_ALIAS, AnyTask, InvalidTaskBackend, task_backends
from peerjob.django.jobs import project_jobs, project_tasks
from peerjob.django.task_store import task_store_of
from peerjob.model.durations import to_seconds
from peerjob.model.listed import listed

OFF = "off"
LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG, 3: logging.DEBUG}
HELP = """\
Run a node that runs the tasks of this project, until SIGTERM or Ctrl-C.

The tasks are those in the module `tasks` of each installed app, and in each MODULE. On SIGTERM or Ctrl-C, running tasks
have --grace to end, and all other claims return to the queue; a second signal cancels running tasks. On SIGUSR1, the
node drains: it claims nothing more, and running tasks continue to their end. Restart the command to run new code.
"""
STATUSES = """\
The exit status: 0 after an orderly end, 2 for an invalid configuration, 4 if the store cannot be reached, 5 if it
refuses the credentials, 1 for other errors, 128 + n if a second signal n ended the stop early.
"""

logger = logging.getLogger("peerjob.django")


class Command(BaseCommand):
    """Run a node with the tasks of the project."""

    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Make the parser; its help keeps its paragraphs."""
        parser = super().create_parser(prog_name, subcommand, epilog=STATUSES, **kwargs)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        add = parser.add_argument
        add("modules", metavar="MODULE", nargs="*", help="A module with more tasks, such as mysite.jobs.")
        add("--backend", metavar="ALIAS", default=DEFAULT_TASK_BACKEND_ALIAS, help="A key of TASKS (default: default).")
        add("--queue", metavar="NAME", action="append", help="A queue to serve; may be repeated (default: all).")
        add("--workers", metavar="N", type=int, default=10, help="How many tasks run at a time (default: 10).")
        add(
            "--grace",
            metavar="DURATION",
            default="30s",
            help="How long running tasks may continue when the node stops (default: 30s).",
        )
        add("--name", metavar="NAME", help="The node's name, for people (default: host name and process id).")
        add(
            "--lease-ttl",
            metavar="DURATION",
            default="5s",
            help="The time after which other nodes take over the tasks of a dead node; 1s or more (default: 5s).",
        )
        add(
            "--listen",
            metavar="HOST:PORT",
            default=OFF,
            help="The address for jobctl, without TLS, such as 127.0.0.1:59051 (default: off).",
        )
        add(
            "--metrics-listen",
            metavar="HOST:PORT",
            default=OFF,
            help="The address for metrics and probes, such as 127.0.0.1:9090 (default: off).",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until a signal."""
        _show_logs(LEVELS[options["verbosity"]])
        self._warn_of_migrations()
        try:
            status = self._run(options)
        except (InvalidTaskBackend, PeerjobError) as error:
            advice = " (start it, or see OPTIONS in TASKS)" if isinstance(error, StoreUnavailableError) else ""
            raise CommandError(f"{error}{advice}", returncode=_status_of(error)) from error
        if status:
            sys.exit(status)

    def _run(self, options: dict[str, Any]) -> int:
        alias: str = options["backend"]
        backend = task_backends[alias] if alias in task_backends.settings else None
        if not isinstance(backend, TaskBackend):
            raise OptionError("--backend", alias, "a key of TASKS whose BACKEND is peerjob.django.TaskBackend")
        backend.check_outbox()
        tasks = _tasks(options["modules"])
        node = backend.checked_options.node(
            project_jobs(alias, tasks, _queues(backend, tasks, options["queue"])),
            workers=options["workers"],
            name=options["name"],
            lease_ttl=options["lease_ttl"],
            relays=True,
        )
        service = Service(
            node,
            grace=to_seconds(options["grace"], "--grace"),
            reload=lambda: logger.warning("SIGHUP: the node keeps its code; restart it to run new code"),
            metrics=_metrics(node, options["metrics_listen"]),
            servers=_servers(node, options["listen"]),
        )

        async def run() -> int:
            with task_store_of(backend.checked_options).using(node):
                return await service.run()

        # the checks have used databases in this thread, which from now on runs the event loop
        connections.close_all()
        return event_loop.run(run())

    def _warn_of_migrations(self) -> None:
        try:
            self.check_migrations()
        except DatabaseError as error:
            # the node starts without the database, as its tasks can wait, or use another one
            self.stderr.write(self.style.WARNING(f"The migrations cannot be checked: {error}"))


def _tasks(modules: list[str]) -> list[AnyTask]:
    try:
        tasks = project_tasks(modules)
    except ModuleNotFoundError as error:
        if not any(f"{name}.".startswith(f"{error.name}.") for name in modules):
            raise
        raise OptionError("MODULE", error.name, "a module that can be imported") from error
    if not tasks:
        raise OptionError("MODULE", modules, "modules with tasks: no installed app has a task in its module `tasks`")
    return tasks


def _queues(backend: TaskBackend, tasks: list[AnyTask], given: list[str] | None) -> Iterable[str]:
    known = backend.queues or {task.queue_name for task in tasks}
    if given is None:
        return known
    for name in given:
        if backend.queues and name not in known:
            raise OptionError("--queue", name, f"a queue in TASKS[{backend.alias!r}]: {listed(known, like=name)}")
    return set(given)


def _servers(node: Node, listen: str) -> list[GracefulServer]:
    if listen == OFF:
        return []
    from peerjob import Server

    return [Server(node, listen)]


def _metrics(node: Node, listen: str) -> ProbeServer | None:
    if listen == OFF:
        return None
    from peerjob import Metrics, MetricsServer

    return MetricsServer(Metrics(node), listen)


def _status_of(error: Exception) -> int:
    if isinstance(error, OptionError | ScheduleError | InvalidTaskBackend):
        return 2
    if isinstance(error, AuthError):
        return 5
    return 4 if isinstance(error, StoreUnavailableError) else 1


def _show_logs(level: int) -> None:
    """Log to standard error, unless the project's LOGGING has handlers."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(HumanFormatter())
        # with DEBUG, Django's own handler shows these
        handler.addFilter(lambda record: not (settings.DEBUG and record.name.partition(".")[0] == "django"))
        root.addHandler(handler)
    # the logger of the package django-tasks is not below that of Django
    for name in ("peerjob", "django_tasks"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(level)
