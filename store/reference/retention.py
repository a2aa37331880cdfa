"""The removal of instances: `expire` and the commands `clear…`."""

from __future__ import annotations

from collections.abc import Iterator

from peerjob.model.query import Filter
from peerjob.model.record import Transition

from .ends import remove
from .reading import created_us_of, page_of
from .state import InstanceData
from .step import AtomicStep


def expire(step: AtomicStep, limit: int) -> int:
    """Remove final instances whose retention is over, then the oldest of the kinds that have too many."""
    removed = remove_expired(step, limit)
    for id in _surplus(step)[: max(0, limit - removed)]:
        remove(step, step.state.instances[id])
        removed += 1
    _forget(step)
    return removed


def remove_expired(step: AtomicStep, limit: int) -> int:
    """Remove up to `limit` instances whose retention is over, the earliest first."""
    expired = [id for expires_us, id in step.state.expiring[:limit] if expires_us <= step.now_us]
    for id in expired:
        remove(step, step.state.instances[id])
    return len(expired)


def removable(step: AtomicStep) -> set[str]:
    """All instances that `expire`, a commit or a reap may remove at this moment."""
    return {id for expires_us, id in step.state.expiring if expires_us <= step.now_us} | set(_surplus(step))


def _surplus(step: AtomicStep) -> list[str]:
    """The instances of each kind that are over, except the `max_final_per_kind` that were created last."""
    by_kind: dict[str, list[str]] = {}
    for _, id in step.state.expiring:
        by_kind.setdefault(step.state.instances[id].kind, []).append(id)
    kept = step.limits.max_final_per_kind
    return [id for ids in by_kind.values() for id in sorted(ids)[: max(0, len(ids) - kept)]]


def _forget(step: AtomicStep) -> None:
    """Forget what the namespace remembers for a time only."""
    state, now_us = step.state, step.now_us
    state.removed = {id: until_us for id, until_us in state.removed.items() if until_us > now_us}
    state.answers = {key: answer for key, answer in state.answers.items() if answer.until_us > now_us}
    state.kinds = {kind: known for kind, known in state.kinds.items() if known.until_us > now_us}


# -- removal on request


def clear_instances(step: AtomicStep, filter: Filter, *, limit: int = 500) -> int:
    """Remove final instances that match, the oldest first."""
    removed = [instance for instance in _matching(step, filter) if instance.over][:limit]
    for instance in removed:
        remove(step, instance)
    return len(removed)


def clear_history(step: AtomicStep, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
    """Reduce the histories of matching final instances to one entry, which counts all; one page."""
    page, cursor = page_of(list(_matching(step, filter)), cursor)
    cleared = [instance for instance in page if len(instance.history) > 1]
    for instance in cleared:
        last, count = instance.history[-1], sum(entry.count for entry in instance.history)
        instance.history = [Transition(last.state, last.at_us, last.node, last.note, count)]
    return len(cleared), cursor


def clear_logs(step: AtomicStep, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
    """Remove the logs of matching final instances; one page."""
    page, cursor = page_of(list(_matching(step, filter)), cursor)
    cleared = [instance for instance in page if instance.logs or instance.dropped]
    for instance in cleared:
        instance.logs, instance.dropped = [], 0
    return len(cleared), cursor


def clear(step: AtomicStep) -> None:
    """Remove every instance in any state."""
    for instance in list(step.state.instances.values()):
        remove(step, instance)
    step.state.undecodable = 0


def _matching(step: AtomicStep, filter: Filter) -> Iterator[InstanceData]:
    """Final instances that match, in order of creation."""
    after_us, before_us = filter.bounds_us(step.now_us)
    for id in sorted(step.state.instances):
        instance, created_us = step.state.instances[id], created_us_of(id)
        if (
            instance.state.is_final
            and (after_us is None or created_us >= after_us)
            and (before_us is None or created_us < before_us)
        ):
            yield instance


def set_aside(step: AtomicStep, id: str) -> None:
    """Do what an engine does with a record that it cannot decode: move it out of every queue and index."""
    remove(step, step.state.instances[id])
    step.state.removed.pop(id, None)
    step.state.undecodable += 1
