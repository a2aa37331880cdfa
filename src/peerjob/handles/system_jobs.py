"""Jobs that remove old data from a namespace. Register them like your own jobs, on any number of nodes.

Each is defined with a recurrence, so the cluster has one schedule of each. The jobs change only final instances, in
bounded steps, and log what they removed. `older_than` is the minimum age of an instance since its creation, at each
run. You can schedule a run with another value: `schedule("system.log.cleaner", older_than="7d")`. Pass other options,
such as `timezone=`, to `with_options`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from peerjob.model.arguments import typed
from peerjob.model.durations import Duration, format_seconds, to_seconds
from peerjob.model.injected import INJECTED
from peerjob.model.job import Job
from peerjob.model.query import Filter

from .instance import Instance
from .manager import Manager

OLDER_THAN = "30d"
MIDNIGHT = "0 0 * * *"


@typed
def history_cleaner(older_than: Duration = OLDER_THAN, cron: str = MIDNIGHT) -> Job[..., int, Any]:
    """Make the job `system.history.cleaner`: it reduces the history of old final instances to the last entry."""
    age = _age(older_than)

    async def clean(
        older_than: timedelta = age, manager: Manager = INJECTED, instance: Instance[int] = INJECTED
    ) -> int:
        """Fold the history of old final instances."""
        done = await manager.clear_history(Filter(older_than=older_than))
        return _logged(instance, "folded the history of", done, older_than)

    return Job("system.history.cleaner", clean, cron=cron)


@typed
def log_cleaner(older_than: Duration = OLDER_THAN, cron: str = MIDNIGHT) -> Job[..., int, Any]:
    """Make the job `system.log.cleaner`: it removes the log lines of old final instances."""
    age = _age(older_than)

    async def clean(
        older_than: timedelta = age, manager: Manager = INJECTED, instance: Instance[int] = INJECTED
    ) -> int:
        """Remove the log lines of old final instances."""
        done = await manager.clear_logs(Filter(older_than=older_than))
        return _logged(instance, "removed the logs of", done, older_than)

    return Job("system.log.cleaner", clean, cron=cron)


@typed
def instance_cleaner(older_than: Duration = OLDER_THAN, cron: str = MIDNIGHT) -> Job[..., int, Any]:
    """Make the job `system.instance.cleaner`: it removes old final instances, with history and logs.

    It helps only for instances with a `retention=` over `older_than`: by default a store keeps final ones for a day.
    """
    age = _age(older_than)

    async def clean(
        older_than: timedelta = age, manager: Manager = INJECTED, instance: Instance[int] = INJECTED
    ) -> int:
        """Remove old final instances."""
        done = await manager.clear_instances(Filter(older_than=older_than))
        return _logged(instance, "removed", done, older_than)

    return Job("system.instance.cleaner", clean, cron=cron)


def _age(older_than: Duration) -> timedelta:
    return timedelta(seconds=to_seconds(older_than, "older_than"))


def _logged(instance: Instance[int], what: str, count: int, older_than: timedelta) -> int:
    instance.log.info("%s %d final instance(s) older than %s", what, count, format_seconds(older_than.total_seconds()))
    return count
