"""The lists of names in errors and log lines."""

from collections.abc import Iterable

import pytest

from peerjob.model.errors import UnknownKindError, UnknownNodeError
from peerjob.model.listed import listed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "none"),
        (["b", "a", "b"], "a, b"),
        ([3, 12], "12, 3"),
        (range(10), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (range(1000, 2011), "1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009 and 1,001 more"),
    ],
)
def test_at_most_ten_names_are_listed(names: Iterable[object], text: str) -> None:
    assert listed(names) == text


def test_names_that_begin_alike_come_first_among_many() -> None:
    assert listed(["add", "nightly"], like="nope") == "add, nightly"
    names = [f"kind-{n:05}" for n in range(10_000)]
    assert listed([*names, "mail.send"], like="mail.sned").startswith("mail.send, kind-00000")
    assert "(known: kind-04711, kind-04710, " in str(UnknownKindError("kind-04711x", names))
    assert str(UnknownNodeError("kind-04711", names)).endswith(" and 9,990 more)")


def test_another_text_stands_for_no_names() -> None:
    assert listed((), none="nothing") == "nothing"
