"""Jobs that keep a namespace small: register them like your own, on as many nodes as you like.

Each is defined with a recurrence, so there is one schedule of each in the cluster. They touch final instances only, in
bounded steps, and log on their own instance what they removed. `older_than` is the least age of an instance since it
was made, judged at each run; a run by hand may have another: `schedule("system.log.cleaner", older_than="7d")`. Other
options, such as `timezone=`, are given with `with_options`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from peerjob.model.durations import Duration, format_seconds, to_seconds
from peerjob.model.injected import INJECTED
from peerjob.model.job import Job
from peerjob.model.query import Filter

from .instance import Instance
from .manager import Manager

OLDER_THAN = "30d"
MIDNIGHT = "0 0 * * *"


def history_cleaner(older_than: Duration = OLDER_THAN, cron: str = MIDNIGHT) -> Job[..., int, Any]:
    """The job `system.history.cleaner`: folds the history of old final instances down to its last entry."""
    age = _age(older_than)

    async def clean(
        older_than: timedelta = age, manager: Manager = INJECTED, instance: Instance[int] = INJECTED
    ) -> int:
        """Fold the history of old final instances."""
        done = await manager.clear_history(Filter(older_than=older_than))
        return _told(instance, "folded the history of", done, older_than)

    return Job("system.history.cleaner", clean, cron=cron)


def log_cleaner(older_than: Duration = OLDER_THAN, cron: str = MIDNIGHT) -> Job[..., int, Any]:
    """The job `system.log.cleaner`: removes the log lines of old final instances."""
    age = _age(older_than)

    async def clean(
        older_than: timedelta = age, manager: Manager = INJECTED, instance: Instance[int] = INJECTED
    ) -> int:
        """Remove the log lines of old final instances."""
        done = await manager.clear_logs(Filter(older_than=older_than))
        return _told(instance, "removed the logs of", done, older_than)

    return Job("system.log.cleaner", clean, cron=cron)


def instance_cleaner(older_than: Duration = OLDER_THAN, cron: str = MIDNIGHT) -> Job[..., int, Any]:
    """The job `system.instance.cleaner`: removes old final instances, with all that belongs to them.

    Only of use for instances with a `retention=` over `older_than`: by default a store keeps final ones for a day.
    """
    age = _age(older_than)

    async def clean(
        older_than: timedelta = age, manager: Manager = INJECTED, instance: Instance[int] = INJECTED
    ) -> int:
        """Remove old final instances."""
        done = await manager.clear_instances(Filter(older_than=older_than))
        return _told(instance, "removed", done, older_than)

    return Job("system.instance.cleaner", clean, cron=cron)


def _age(older_than: Duration) -> timedelta:
    return timedelta(seconds=to_seconds(older_than, "older_than"))


def _told(instance: Instance[int], what: str, count: int, older_than: timedelta) -> int:
    instance.log.info("%s %d final instance(s) older than %s", what, count, format_seconds(older_than.total_seconds()))
    return count
