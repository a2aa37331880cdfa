"""Converts new instances to arguments of scripts; `arrival.lua` reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from msgspec.structs import replace

from peerjob.model.record import Held, NewChild, NewInstance, StoreLimits
from peerjob.model.restored import Restored
from peerjob.model.state import State
from peerjob.store.lua.scripts.script import Argument

from .codec import FORMAT, MAX_TIME_US
from .thread import awaited_text, parent_tag

ID_SIZE = 36
MAX_PLAIN_RECORDS = 1_000
"""The maximum number of kinds and options whose record is kept for the next instance."""

_HEAD, _COUNTS = struct.Struct(">BBBHi"), struct.Struct(">IIIIdII")
_TIME_BYTES = 8
_SIZE = struct.Struct(">I")


class InstanceTemplates:
    """The templates of instances: those that differ only in id and spec share one."""

    def __init__(self, *tags: str) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._tags = tags
        self.arguments: list[Argument] = []
        """The arguments of all templates."""

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, instance: NewInstance) -> int:
        """The number of the template of an instance, a new one if necessary."""
        shape = (
            instance.kind,
            instance.priority,
            instance.due_us,
            instance.delay_us,
            instance.key,
            instance.tags,
            instance.retention_us,
            instance.max_crashes,
            instance.attempts,
            instance.crashes,
            instance.losses,
        )
        number = self._numbers.get(shape)
        if number is None:
            number = self._numbers[shape] = len(self._numbers) + 1
            self.arguments += template_arguments(instance, *self._tags)
        return number


def enqueue_arguments(instances: Sequence[NewInstance], node: str) -> list[Argument]:
    """Arguments of enqueue.lua."""
    templates = InstanceTemplates()
    members: list[Argument] = []
    for instance in instances:
        members += (instance.id, with_limit_key(templates.number(instance), instance), instance.spec)
    return [node, len(templates), *templates.arguments, *members]


def spawn_arguments(
    incarnation: str, parent: Held, children: Sequence[NewChild], limits: StoreLimits
) -> list[Argument]:
    """Arguments of spawn.lua."""
    templates = InstanceTemplates(parent_tag(parent.id))
    members: list[Argument] = []
    for child in children:
        new = child.instance
        number = with_limit_key(templates.number(new), new)
        members += (new.id, number, new.spec, int(child.more), len(child.needs))
        members += (f"{need.when[0]}{need.id}" for need in child.needs)
    return [
        incarnation,
        parent.id,
        parent.fence,
        limits.retention_us,
        len(templates),
        *templates.arguments,
        *members,
    ]


def restore_arguments(instances: Sequence[Restored], node: str) -> list[Argument]:
    """Arguments of restore.lua."""
    arguments: list[Argument] = [node]
    for restored in instances:
        new, wait = restored.instance, restored.wait
        before_us = min(max(new.due_us or 0, 0), MAX_TIME_US)
        what = "o" if restored.open else "q" if wait is None else "w"
        if restored.state.is_final:
            what = str(int(restored.state))
        elif wait is not None and wait.until_us is not None:
            what, new = "t", replace(new, due_us=wait.until_us)
        tags = (parent_tag(restored.parent),) if restored.parent else ()
        key = f"{new.key_concurrency} {new.limit_key}" if new.limit_key else ""
        arguments += (*template_arguments(new, *tags), new.id, key, new.spec, restored.parent, what, before_us)
        arguments.append(awaited_text(wait))
        arguments += (b"" if data is None else b"=" + data for data in (restored.result, restored.error))
        arguments.append(len(restored.steps))
        for step in restored.steps:
            arguments += (step.name, step.value)
    return arguments


def plain_arguments(instance: NewInstance, node: str) -> tuple[Argument, ...] | None:
    """Arguments of enqueue_waking.lua and the cheaper scripts; None if the instance is not simple enough for them."""
    return _plain_arguments(instance, node) if is_plain(instance) and not instance.limit_key else None


def alike_arguments(instances: Sequence[NewInstance], node: str) -> list[Argument] | None:
    """Arguments of enqueue_alike.lua, or of enqueue_alike_keyed.lua for instances with limit keys.

    None if the instances are not simple enough for these scripts, or differ in more.
    """
    first = instances[0]
    kind, priority, retention_us, max_crashes = first.kind, first.priority, first.retention_us, first.max_crashes
    concurrency, is_keyed, size = first.key_concurrency, bool(first.limit_key), 3 if first.limit_key else 2
    members: list[Argument] = []
    for new in instances:
        if (
            new.kind != kind
            or new.priority != priority
            or new.retention_us != retention_us
            or new.max_crashes != max_crashes
            or bool(new.limit_key) != is_keyed
            or new.key_concurrency != concurrency
            or not is_plain(new)
        ):
            return None
        members += (new.id, new.spec, new.limit_key) if is_keyed else (new.id, new.spec)
    if len(set(members[::size])) < len(instances):
        return None
    if is_keyed:
        members[:0] = (concurrency, _SIZE.pack(concurrency))
    return [kind, priority, *plain_record(kind, priority, retention_us, max_crashes, node), *members]


def keyed_arguments(instance: NewInstance, node: str) -> tuple[Argument, ...] | None:
    """Arguments of enqueue_keyed.lua; None if the instance is not simple enough for it."""
    if not is_plain(instance) or not instance.limit_key:
        return None
    concurrency = instance.key_concurrency
    return (*_plain_arguments(instance, node), concurrency, _SIZE.pack(concurrency), instance.limit_key)


def _plain_arguments(instance: NewInstance, node: str) -> tuple[Argument, ...]:
    kind, priority = instance.kind, instance.priority
    parts = plain_record(kind, priority, instance.retention_us, instance.max_crashes, node)
    return (kind, priority, *parts, instance.id, instance.spec)


def is_plain(instance: NewInstance) -> bool:
    """Whether an instance is due now, and has no key, no tags, and no counts of another store."""
    return (
        instance.due_us is None
        and not instance.delay_us
        and instance.key is None
        and not (instance.tags or instance.attempts or instance.crashes or instance.losses)
    )


@lru_cache(maxsize=MAX_PLAIN_RECORDS)
def plain_record(
    kind: str, priority: int, retention_us: int | None, max_crashes: int, node: str
) -> tuple[bytes, bytes, bytes, bytes]:
    """The record of a new instance without key, tags and slot, cut where its time belongs.

    The time stands four times in the record: the due time, followed by the fence 0; the time of the last change; and
    the times of Created and of Scheduled.
    """
    retention = -1 if retention_us is None else retention_us
    entry = _SIZE.pack(1) + _sized(node.encode()) + _sized(b"")
    between = entry + bytes([State.SCHEDULED])
    head = _HEAD.pack(FORMAT, State.SCHEDULED, 0, 2, priority)
    history_size = 2 * (1 + _TIME_BYTES + len(entry))
    numbers = _COUNTS.pack(0, 0, 0, max_crashes, retention, 0, 0) + _sized(kind.encode()) + _sized(b"")
    return head, numbers + _SIZE.pack(history_size) + bytes([State.CREATED]), between, entry


def with_limit_key(number: int, instance: NewInstance) -> Argument:
    """A number, and after it the concurrency and the limit key of an instance that has one."""
    return f"{number} {instance.key_concurrency} {instance.limit_key}" if instance.limit_key else number


def check_id(id: str) -> None:
    """Raise ValueError if an id has not the length of a UUID."""
    if len(id) != ID_SIZE:
        raise ValueError(f"an id is a UUID of {ID_SIZE} characters, not {id!r}")


def template_arguments(instance: NewInstance, *more_tags: str) -> tuple[Argument, ...]:
    """A template of equal instances with further tags, as arrival.lua reads it."""
    if instance.due_us is not None:
        due = f"={min(max(instance.due_us, 0), MAX_TIME_US)}"
    else:
        due = f"+{instance.delay_us}" if instance.delay_us else ""
    return (
        instance.kind,
        instance.priority,
        due,
        "" if instance.key is None else f"k{instance.key}",
        b"".join(_sized(tag.encode()) for tag in dict.fromkeys((*instance.tags, *more_tags))),
        -1 if instance.retention_us is None else instance.retention_us,
        instance.max_crashes,
        _counts(instance),
    )


def _counts(instance: NewInstance) -> str:
    """The counts of an instance that comes from another store; "" for any other."""
    return (
        f"{instance.attempts} {instance.crashes} {instance.losses}"
        if instance.attempts or instance.crashes or instance.losses
        else ""
    )


def _sized(text: bytes) -> bytes:
    return _SIZE.pack(len(text)) + text
