"""Which jobs a node takes from a module, if several attributes have one kind."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from peerjob import Job, JobConflictError, Node


def one() -> int:
    return 1


def two() -> int:
    return 2


def module(**attributes: Any) -> ModuleType:
    made = ModuleType("shop")
    vars(made).update(attributes)
    return made


def test_a_handle_does_not_hide_the_job_that_a_module_defines() -> None:
    handle, job = Job("send"), Job("send", one)
    for jobs in (module(handle=handle, send=job), module(send=job, handle=handle)):
        assert [found.executor for found in Node("memory://", jobs=[jobs]).jobs()] == [one]
    assert [found.executor for found in Node("memory://", jobs=[module(handle=handle)]).jobs()] == [None]


def test_the_first_variant_of_a_job_counts() -> None:
    job = Job("send", one, priority=3)
    shop = module(send=job, urgent=job.with_options(priority=0), again=job)
    assert Node("memory://", jobs=[shop]).jobs() == [job]


def test_two_functions_of_one_kind_are_refused() -> None:
    first, second = Job("send", one), Job("send", two)
    expected = r"kind 'send' belongs to .*:one \(line \d+\) here, and was also given with .*:two"
    for jobs in ([module(first=first, second=second)], [first, second], [module(first=first), module(second=second)]):
        with pytest.raises(JobConflictError, match=expected):
            Node("memory://", jobs=jobs)
    node = Node("memory://", jobs=[first])
    node.register(second)
    assert node.jobs() == [second]


SCRIPT = """
import functools
from peerjob import Job, Node, job

def logged(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)
    return call

@job
def send() -> None: ...

@job
@logged
def post() -> None: ...

if __name__ == "__main__":
    import orders
    print(sorted(one.kind for one in Node("memory://", jobs=[send, post, orders]).jobs()))
"""


def test_a_script_that_another_module_imports_has_its_jobs_once(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SCRIPT)
    (tmp_path / "orders.py").write_text("from shop import post, send\n")
    ran = subprocess.run(
        [sys.executable, tmp_path / "shop.py"], capture_output=True, text=True, timeout=100, check=False
    )
    assert (ran.stdout, ran.stderr) == ("['shop:post', 'shop:send']\n", "")


def test_closures_over_other_values_are_refused() -> None:
    def made(value: object) -> Job[[], object, object]:
        return Job("give", lambda: value)

    def repeat(times: int) -> Job[[], object, object]:
        def again() -> object:
            return again() if times else None

        return Job("again", again)

    for first, second in ((made(1), made(2)), (made(1), made(True)), (made([]), made([])), (repeat(1), repeat(2))):
        with pytest.raises(JobConflictError):
            Node("memory://", jobs=[first, second])
    for first, second in ((made(1), made(1)), (repeat(1), repeat(1))):
        Node("memory://", jobs=[first, second])
