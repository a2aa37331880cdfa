"""Run Django's own tests of its task backends against peerjob's.

They are in Django's source distribution, which pip fetches, and which `build/django` keeps. The script replaces the
names of Django's two backends in these tests by two subclasses of peerjob's: one that only stores (Django's dummy), and
one that also runs a node until the task has ended (Django's immediate). UNFIT names the tests that cannot apply.

Run it with a Python of version 3.12 or later, since Django 6 needs that; on an older one, it looks for one.
"""

import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from typing import Any

import unit_on_other_pythons

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "build" / "django"

_IN_MEMORY = "it changes the list of results that Django's dummy backend keeps in memory"
_HAS_RESULTS = "peerjob reads results"
UNFIT = {
    "test_dummy_backend.DummyBackendTestCase.test_refresh_result": _IN_MEMORY,
    "test_dummy_backend.DummyBackendTestCase.test_refresh_result_async": _IN_MEMORY,
    "test_dummy_backend.DummyBackendTransactionTestCase.test_doesnt_wait_until_transaction_commit_by_default": (
        "peerjob waits, unless enqueue_on_commit is False"
    ),
    "test_immediate_backend.ImmediateBackendTransactionTestCase.test_doesnt_wait_until_transaction_commit_by_default": (
        "peerjob waits, unless enqueue_on_commit is False"
    ),
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_get_result": _HAS_RESULTS,
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_refresh_result": _HAS_RESULTS,
    "test_immediate_backend.ImmediateBackendTestCase.test_cannot_pass_run_after": "peerjob has run_after",
    "test_immediate_backend.ImmediateBackendTestCase.test_throws_keyboard_interrupt": (
        "a node ends the task as failed; no caller is there to interrupt"
    ),
}
BACKENDS = {
    "django.tasks.backends.dummy.DummyBackend": "support.django_backends.StoringBackend",
    "django.tasks.backends.immediate.ImmediateBackend": "support.django_backends.RunningBackend",
    "from django.tasks.backends.dummy import DummyBackend": (
        "from support.django_backends import StoringBackend as DummyBackend"
    ),
    "from django.tasks.backends.immediate import ImmediateBackend": (
        "from support.django_backends import RunningBackend as ImmediateBackend"
    ),
}


def main() -> int:
    if sys.version_info < (3, 12):
        return elsewhere()
    import django
    from django.conf import settings
    from django.test.utils import get_runner

    with tempfile.TemporaryDirectory(prefix="peerjob-django-") as folder:
        adapt(fetched(django.__version__), Path(folder, "tasks"))
        sys.path[:0] = [folder, str(ROOT / "tests")]
        settings.configure(
            BASE_DIR=folder,
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            INSTALLED_APPS=["tasks", "peerjob.django"],
        )
        django.setup()
        runner: Any = get_runner(settings)(verbosity=2)
        suite = runner.build_suite(["tasks"])
        unfit = {f"tasks.{name}" for name in UNFIT}
        for test in suite:
            if test.id() in unfit:
                reason = UNFIT[test.id().removeprefix("tasks.")]
                setattr(test, test._testMethodName, unittest.skip(reason)(lambda: None))
                unfit.discard(test.id())
        databases = runner.setup_databases()
        result = runner.run_suite(suite)
        runner.teardown_databases(databases)
        for name in unfit:
            print(f"UNFIT names {name}, which this Django does not have", file=sys.stderr)
        return 0 if result.wasSuccessful() and not unfit else 1


def elsewhere() -> int:
    """Run this script on a newer Python."""
    for version in unit_on_other_pythons.VERSIONS:
        if version >= (3, 12) and (python := unit_on_other_pythons.interpreter(version)):
            folder = unit_on_other_pythons.environment(version, python)
            return subprocess.run([folder / "python", __file__], check=False).returncode
    print("no Python of version 3.12 or later found, which Django 6 needs", file=sys.stderr)
    return 1


def fetched(version: str) -> Path:
    """The source distribution of Django, fetched unless it is kept."""
    archive = KEPT / f"django-{version}.tar.gz"
    if not archive.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        pip = ROOT / ".venv" / "bin" / "python"
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(KEPT), f"django=={version}"]
        # Django's setup needs a Python that this Django supports, so pip runs on the present one
        subprocess.run([pip, "-m", "pip", "--python", sys.executable, "download", *options], check=True)
    return archive


def adapt(archive: Path, folder: Path) -> None:
    """Write Django's tests with the names of peerjob's backends."""
    folder.mkdir()
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            path = Path(member.name)
            if path.parts[1:3] == ("tests", "tasks") and path.suffix == ".py" and (file := opened.extractfile(member)):
                text = file.read().decode()
                for old, new in BACKENDS.items():
                    text = text.replace(old, new)
                (folder / path.name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
