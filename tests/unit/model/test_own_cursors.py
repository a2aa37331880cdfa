"""A cursor for a caller that sees some kinds only has no id of another kind, and leaves nothing out."""

from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerjob.model.ids import IdSource
from peerjob.model.own_cursors import own_cursor
from peerjob.testing.clock import VirtualClock

Order = Literal["asc", "desc"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@given(
    bulks=st.lists(st.lists(st.booleans(), max_size=30), max_size=4),
    limit=st.integers(1, 7),
)
def test_a_walk_sees_all_own_instances_once_begun(order: Order, bulks: list[list[bool]], limit: int) -> None:
    """Each bulk has the ids of one millisecond; True is an own instance."""
    is_own: dict[str, bool] = {}
    for number, bulk in enumerate(bulks):
        ids = IdSource(VirtualClock(datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC), seed=number))
        is_own |= zip(ids.take(len(bulk)), bulk, strict=True)
    ordered = sorted(is_own, reverse=order == "desc")

    def page(cursor: str | None) -> list[str]:
        return [id for id in ordered if cursor is None or (id > cursor if order == "asc" else id < cursor)][:limit]

    seen: dict[str, None] = {}
    given: str | None = None
    for _ in range(len(ordered) + 2):
        real = given
        while len(found := page(real)) == limit:
            kept = [id for id in found if is_own[id]]
            shown = own_cursor(found[-1], kept[-1] if kept else None, given, order)
            real = found[-1]
            if shown is not None:
                break
        else:
            seen |= dict.fromkeys(id for id in found if is_own[id])
            break
        seen |= dict.fromkeys(kept)
        assert shown != given
        assert is_own.get(shown, True)
        given = shown
    assert list(seen) == [id for id in ordered if is_own[id]]
