"""The catalogue of kinds, and the descriptors of kinds."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.model.published import MAX_DESCRIPTORS, KindDescriptor
from peerjob.model.record import check_batch

from .state import PublishedKind
from .step import AtomicStep


def publish_kinds(step: AtomicStep, kinds: Sequence[str]) -> None:
    """Add kinds to the catalogue, for `kinds_kept_us` from now."""
    check_batch(len(kinds))
    for kind in kinds:
        _publish(step, kind)


def published_kinds(step: AtomicStep, kinds: Sequence[str]) -> list[bool]:
    """Whether the catalogue has each kind."""
    check_batch(len(kinds))
    return [_known(step, kind) is not None for kind in kinds]


def publish_descriptors(step: AtomicStep, descriptors: Sequence[KindDescriptor]) -> list[bool]:
    """Publish kinds with their descriptors; returns for each whether its schema is missing."""
    check_batch(len(descriptors))
    return [_publish_descriptor(step, one) for one in descriptors]


def _publish_descriptor(step: AtomicStep, given: KindDescriptor) -> bool:
    """Put a descriptor first. Without a schema, it keeps the schema that was published before."""
    known = _publish(step, given.kind)
    before = [one for one in known.descriptors if one.digest == given.digest]
    if before and not given.schema:
        given = replace(given, schema=before[0].schema)
    others = [one for one in known.descriptors if one.digest != given.digest]
    known.descriptors = [given, *others][:MAX_DESCRIPTORS]
    return not given.schema


def descriptors(step: AtomicStep, kinds: Sequence[str]) -> list[tuple[KindDescriptor, ...]]:
    """The descriptors of each kind, the latest published first."""
    check_batch(len(kinds))
    found = [_known(step, kind) for kind in kinds]
    return [() if known is None else tuple(known.descriptors) for known in found]


def _known(step: AtomicStep, kind: str) -> PublishedKind | None:
    known = step.state.kinds.get(kind)
    return known if known is not None and known.until_us > step.now_us else None


def _publish(step: AtomicStep, kind: str) -> PublishedKind:
    known = _known(step, kind) or PublishedKind(until_us=0)
    known.until_us = step.now_us + step.limits.kinds_kept_us
    step.state.kinds[kind] = known
    return known
