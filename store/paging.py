"""Complete lists, collected from the pages of a store."""

from __future__ import annotations

from peerjob.model.firing import ScheduleRow

from .base import Store


async def all_schedules(store: Store) -> list[ScheduleRow]:
    """All schedules, by name."""
    rows: dict[str, ScheduleRow] = {}
    revision = 0
    while True:
        page = await store.changed_schedules(revision)
        if page.reset:
            rows.clear()
        for row in page.rows:
            if row.removed:
                rows.pop(row.name, None)
            else:
                rows[row.name] = row
        revision = page.revision
        if not page.more:
            return [rows[name] for name in sorted(rows)]
