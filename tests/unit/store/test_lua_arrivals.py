"""Which batches of new instances have the cheap script."""

from typing import Any

import pytest

from peerjob.model.clock import SystemClock
from peerjob.store.lua.commands.arrivals import alike_arguments, plain_record
from peerjob.testing.factories import Factory

make = Factory(SystemClock())


def test_a_batch_of_equal_instances_has_their_record_once() -> None:
    first, second = batch = make.instances(2, kind="mail", priority=-3, retention_us=0, max_crashes=9)
    record = plain_record("mail", -3, 0, 9, "node")
    assert alike_arguments(batch, "node") == ["mail", -3, *record, first.id, b"spec", second.id, b"spec"]


@pytest.mark.parametrize(
    "option",
    [
        {"kind": "other"}, {"priority": 4}, {"due_us": 1}, {"delay_us": 1}, {"key": "k"}, {"tags": ("a",)},
        {"retention_us": 0}, {"max_crashes": 1}, {"attempts": 1}, {"crashes": 1}, {"losses": 1}, {"limit_key": "a"},
    ],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
def test_a_batch_in_which_one_instance_differs_has_no_cheap_script(option: dict[str, Any]) -> None:
    assert alike_arguments([make.instance(), make.instance(**option)], "node") is None


def test_a_batch_with_an_instance_twice_has_no_cheap_script() -> None:
    """The cheap script looks only for instances of earlier calls."""
    twice, other = make.instances(2)
    assert alike_arguments([twice, other, twice], "node") is None
