"""The OPTIONS of the backend, its system checks, and the options of tasks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core import checks
from django.db import transaction
from django.test.utils import override_settings
from django.utils.module_loading import import_string
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from peerjob import OptionError
from peerjob.django import TaskBackend, with_options
from peerjob.django.framework import VERSION, AnyTask, InvalidTaskBackend, TaskResultDoesNotExist, task_backends
from peerjob.django.options import read_options
from peerjob.django.task_store import task_store_of
from peerjob.django.tasks import PeerjobTask, options_of
from support.django_site import tasks


@dataclass
class DataclassProvider(CredentialProvider):
    """A provider without a hash, as each dataclass that is not frozen."""

    password: str

    def get_credentials(self) -> tuple[str]:
        return (self.password,)


BAD = [
    (
        {"stroe": "x"},
        "['OPTIONS']: expected options among store, coordinator, credentials, namespace, store_retry, enqueue_on_com",
    ),
    ({"store": 5}, "['OPTIONS']['store']: expected a URL, such as redis://localhost:6379, got int 5"),
    ({"store": Path("/x")}, "['OPTIONS']['store']: expected a URL, such as redis://localhost:6379, got PosixPath"),
    ({"coordinator": 5}, "['OPTIONS']['coordinator']: expected a URL, such as etcd://localhost:2379, got int 5"),
    ({"namespace": None}, "['OPTIONS']['namespace']: expected a name, got NoneType None"),
    ({"enqueue_on_commit": "yes"}, "['OPTIONS']['enqueue_on_commit']: expected True or False, got str 'yes'"),
]


def test_the_node_of_a_backend_gets_its_provider_of_credentials() -> None:
    provider = UsernamePasswordCredentialProvider("jobs", "hidden")
    options = read_options("default", {"store": "redis://localhost", "credentials": provider})
    assert "hidden" not in repr(options)
    options.node()
    for store, given in (("redis://localhost", object()), ("sqlite:///jobs.db", provider)):
        with pytest.raises(OptionError) as raised:
            read_options("default", {"store": store, "credentials": given}).node()
        assert raised.value.option == "credentials"


def test_a_provider_of_credentials_may_be_a_dataclass() -> None:
    options = {"store": "redis://localhost", "credentials": DataclassProvider("hidden")}
    first, second = (task_store_of(read_options("default", options)) for _ in range(2))
    assert first is second


@pytest.mark.parametrize(("options", "text"), BAD, ids=str)
def test_wrong_options_are_errors_of_the_check_and_of_each_use(options: dict[str, Any], text: str) -> None:
    with override_settings(TASKS={"default": {"BACKEND": "peerjob.django.TaskBackend", "OPTIONS": options}}):
        [found] = task_backends["default"].check()
        assert (found.id, found.level) == ("peerjob.E001", checks.ERROR)
        assert found.msg.startswith(f"TASKS['default']{text}")
        with pytest.raises(InvalidTaskBackend) as caught:
            tasks.add.enqueue(1)
        assert str(caught.value) == found.msg
        with pytest.raises(InvalidTaskBackend):
            tasks.add.get_result("01a2174d-4b9b-7092-868b-1f06d87ffae3")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"store": "mysql://u:secret@host"}, "store: expected"),
        ({"store": "redis://u:secret@host:port"}, "store"),
        ({"store": "memory://", "namespace": "a b"}, "namespace: expected"),
        ({"store": "memory://", "coordinator": "http://u:secret@host"}, "coordinator: expected"),
    ],
)
def test_options_that_no_node_accepts_are_errors_of_the_check(options: dict[str, Any], text: str) -> None:
    with override_settings(TASKS={"default": {"BACKEND": "peerjob.django.TaskBackend", "OPTIONS": options}}):
        [found] = task_backends["default"].check()
        assert found.id == "peerjob.E002"
        assert text in found.msg
        assert "secret" not in found.msg
        with pytest.raises(InvalidTaskBackend, match="TASKS"):
            tasks.add.enqueue(1)


def test_a_missing_folder_of_the_store_is_a_warning_and_an_error_of_each_use(tmp_path: Path) -> None:
    options = {"store": f"sqlite://{tmp_path}/missing/peerjob.db"}
    with override_settings(TASKS={"default": {"BACKEND": "peerjob.django.TaskBackend", "OPTIONS": options}}):
        [found] = task_backends["default"].check()
        assert (found.id, found.level) == ("peerjob.W005", checks.WARNING)
        assert found.msg.startswith("TASKS['default']['OPTIONS']: store: expected a path in a folder that exists")

        def enqueue_in_transaction() -> None:
            with transaction.atomic():
                tasks.add.enqueue(1)

        known = "01a2174d-4b9b-7092-868b-1f06d87ffae3"
        for use in (lambda: tasks.add.enqueue(1), enqueue_in_transaction, lambda: tasks.add.get_result(known)):
            with pytest.raises(InvalidTaskBackend) as caught:
                use()
            assert str(caught.value) == found.msg
        (tmp_path / "missing").mkdir()
        assert task_backends["default"].check() == []
        with pytest.raises(TaskResultDoesNotExist):
            tasks.add.get_result("no id")
        result = tasks.add.enqueue(1)
        result.refresh()


def test_the_default_store_is_a_file_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(BASE_DIR=tmp_path / "site"):
        assert read_options("default", {}).store == f"sqlite://{tmp_path}/site/peerjob.db"
    monkeypatch.chdir(tmp_path)
    with override_settings(BASE_DIR=None):
        assert read_options("default", {}).store == f"sqlite://{tmp_path}/peerjob.db"
    assert read_options("default", {}).store == f"sqlite://{tmp_path}/peerjob.db"


def test_options_show_no_password() -> None:
    options = read_options("default", {"store": "redis://:secret@host", "coordinator": "etcd://u:secret@host"})

    assert "secret" not in repr(options)


def identifiers(**changed: Any) -> list[str]:
    given = {"TASKS": {"default": {"BACKEND": "peerjob.django.TaskBackend"}}} | changed
    with override_settings(**given):
        return [str(one.id) for one in task_backends["default"].check()]


def test_a_sound_project_has_no_warning(tmp_path: Path) -> None:
    assert identifiers(BASE_DIR=tmp_path) == []


def test_a_store_in_memory_is_a_warning() -> None:
    memory = {"BACKEND": "peerjob.django.TaskBackend", "OPTIONS": {"store": "memory://"}}
    assert identifiers(TASKS={"default": memory}) == ["peerjob.W001"]


def test_a_project_without_the_app_is_warned() -> None:
    others = [one for one in settings.INSTALLED_APPS if one != "peerjob.django"]
    assert identifiers(INSTALLED_APPS=others) == ["peerjob.W002"]


@pytest.mark.skipif(VERSION < (6, 0), reason="on Django 5, tasks are in that package")
def test_the_package_of_older_djangos_is_a_warning() -> None:
    with_package = [*settings.INSTALLED_APPS, "django_tasks"]
    pytest.importorskip("django_tasks")
    assert identifiers(INSTALLED_APPS=with_package) == ["peerjob.W003"]


def test_with_options_adds_to_the_options_of_a_task(backend: TaskBackend) -> None:
    task = with_options(max_retries=5, timeout="1m")(tasks.third_time)

    assert options_of(task) == {"max_retries": 5, "timeout": "1m", "tags": ["tried"]}
    assert options_of(tasks.third_time) == {"max_retries": 2, "tags": ["tried"]}
    assert options_of(task.using(priority=3)) == options_of(task)
    assert hash(task)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"priority": 3}, r"priority: expected using\(priority=…\), got 3"),
        ({"after": 3}, r"after: expected using\(run_after=…\), got 3"),
        ({"key": "x"}, "key: expected no key"),
        ({"max_retries": -1}, "max_retries: expected"),
        ({"retries": 1}, "retries: expected one of the options"),
    ],
)
def test_options_that_a_task_cannot_have_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        with_options(**options)


def test_a_task_of_another_backend_stays_as_it_is() -> None:
    package = "django.tasks" if VERSION >= (6, 0) else "django_tasks"
    with override_settings(TASKS={"default": {"BACKEND": f"{package}.backends.immediate.ImmediateBackend"}}):
        task: AnyTask = import_string(f"{package}.task")(tasks.add.func)
        assert not isinstance(task, PeerjobTask)
        assert with_options(max_retries=3)(task) is task
        assert task.enqueue(1).return_value == 2
