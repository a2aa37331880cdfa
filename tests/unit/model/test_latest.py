"""A bounded dictionary keeps its latest entries."""

from peerjob.model.latest import Latest


def test_the_oldest_entry_is_dropped_above_the_bound() -> None:
    entries = Latest[str, int](2)
    for name in ("a", "b", "c"):
        entries[name] = 1

    assert list(entries) == ["b", "c"]


def test_an_entry_that_is_assigned_again_is_the_latest() -> None:
    entries = Latest[str, int](2)
    for name in ("a", "b", "a", "c"):
        entries[name] = 1

    assert list(entries) == ["a", "c"]
