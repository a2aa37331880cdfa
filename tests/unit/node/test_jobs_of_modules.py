"""Which jobs a node takes from a module, if several attributes have one kind."""

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
