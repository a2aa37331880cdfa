"""The size of a claim does not depend on the number of kinds."""

from peerjob.model.caps import Caps
from peerjob.node.work.pool import Prefetch


def test_caps_are_a_mapping_of_every_kind() -> None:
    caps = Caps(("a", "b", "c"), 2, {"b": 5})
    assert dict(caps) == {"a": 2, "b": 5, "c": 2}
    assert (len(caps), list(caps), caps.get("d"), caps == {"a": 2, "b": 5, "c": 2}) == (3, ["a", "b", "c"], None, True)


def test_a_pace_names_the_kinds_that_were_measured_last() -> None:
    prefetch = Prefetch()
    for kind in ("a", "b", "c", "a"):
        prefetch.measured(kind, 0.001)
    assert list(prefetch.latest(2)) == ["a", "c"]
    assert list(prefetch.latest(9)) == ["a", "c", "b"]
