"""What `manage.py peerjob` refuses, and what its help says."""

import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand
from django.test.utils import override_settings

from peerjob.django.framework import VERSION
from peerjob.django.jobs import project_jobs, project_tasks
from peerjob.django.management.commands.peerjob import Command
from peerjob.django.process import set_up
from support.django_site import tasks

PACKAGE = "django.tasks" if VERSION >= (6, 0) else "django_tasks"


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Restore the levels of the loggers that the command sets."""
    loggers = [logging.getLogger(name) for name in ("peerjob", "django_tasks")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("arguments", "given", "text"),
    [
        ([], {"backend": "nope"}, "--backend: expected a key of TASKS whose BACKEND is peerjob.django.TaskBackend"),
        ([], {"queue": ["letters"]}, r"--queue: expected a queue in TASKS\['default'\]: default, mail, got 'letters'"),
        ([], {"workers": -1}, "workers: expected"),
        ([], {"grace": "soon"}, "--grace: expected a duration"),
        ([], {"lease_ttl": "0s"}, "lease_ttl: expected 1 second or more"),
        (["nowhere.tasks"], {}, "MODULE: expected a module that can be imported, got 'nowhere'"),
        (["support.nothing"], {}, "MODULE: expected a module that can be imported, got 'support.nothing'"),
        ([], {"listen": "127.0.0.1:x"}, "listen: expected host:port"),
        ([], {"metrics_listen": "127.0.0.1:x"}, "metrics_listen: expected host:port"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments: list[str], given: dict[str, Any], text: str) -> None:
    with pytest.raises(CommandError, match=text) as caught:
        call_command("peerjob", *arguments, **given)
    assert caught.value.returncode == 2


def test_a_backend_of_django_has_no_node() -> None:
    immediate = {"default": {"BACKEND": f"{PACKAGE}.backends.immediate.ImmediateBackend"}}
    with override_settings(TASKS=immediate), pytest.raises(CommandError, match="--backend"):
        call_command("peerjob", skip_checks=True)


def test_wrong_options_end_with_status_2() -> None:
    wrong = {"default": {"BACKEND": "peerjob.django.TaskBackend", "OPTIONS": {"stroe": "x"}}}
    with override_settings(TASKS=wrong), pytest.raises(CommandError, match="'stroe'") as caught:
        call_command("peerjob", skip_checks=True)
    assert caught.value.returncode == 2


def test_an_outbox_in_an_unknown_database_ends_with_status_2() -> None:
    wrong = {"default": {"BACKEND": "peerjob.django.TaskBackend", "OPTIONS": {"outbox": "nowhere"}}}
    text = r"TASKS\['default'\]\['OPTIONS'\]\['outbox'\]: expected True or an alias of DATABASES, got 'nowhere'"
    with override_settings(TASKS=wrong), pytest.raises(CommandError, match=text) as caught:
        call_command("peerjob", skip_checks=True)
    assert caught.value.returncode == 2


def test_the_help_keeps_its_paragraphs() -> None:
    command: BaseCommand = Command(stdout=StringIO())
    text = command.create_parser("manage.py", "peerjob").format_help()
    assert "\n\nThe tasks are those in the module `tasks` of each installed app" in text
    assert "128 + n if a second signal n ended the stop early." in text


def test_a_node_has_a_job_for_each_task_in_each_queue() -> None:
    found = project_tasks()
    ours = [task for task in found if task.func.__module__ == tasks.__name__]
    kinds = {job.kind: job for job in project_jobs("default", ours, {"default", "mail"})}
    assert len(kinds) == 2 * len(ours)
    assert kinds[f"{tasks.__name__}.send@mail"].policy.priority == 5 - 7
    # a recurring task fires in the queue of its definition alone
    assert kinds[f"{tasks.__name__}.tidy"].timing.recurs
    assert not kinds[f"{tasks.__name__}.tidy@mail"].timing.recurs


def test_a_set_up_process_is_not_set_up_again() -> None:
    handlers = logging.getLogger().handlers[:]
    set_up()
    assert logging.getLogger().handlers == handlers
