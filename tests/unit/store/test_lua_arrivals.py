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


def test_a_batch_of_equal_instances_with_limit_keys_has_their_concurrency_once() -> None:
    first, second = batch = [make.instance(limit_key=key, key_concurrency=2) for key in "ab"]
    *_, concurrency, packed, one, spec, key, other, other_spec, other_key = alike_arguments(batch, "node") or []
    assert (concurrency, packed) == (2, b"\0\0\0\2")
    assert (one, spec, key) == (first.id, b"spec", "a")
    assert (other, other_spec, other_key) == (second.id, b"spec", "b")
    for third in (make.instance(limit_key="a", key_concurrency=3), make.instance(), first):
        assert alike_arguments([first, third], "node") is None


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
