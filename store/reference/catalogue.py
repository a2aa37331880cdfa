"""The catalogue of kinds, and the descriptors of kinds."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.model.published import MAX_DESCRIPTORS, KindDescriptor
from peerjob.model.record import check_batch

from .state import PublishedKind
from .transaction import ReferenceTransaction


def publish_kinds(transaction: ReferenceTransaction, kinds: Sequence[str]) -> None:
    """Add kinds to the catalogue, for `kinds_kept_us` from now."""
    check_batch(len(kinds))
    for kind in kinds:
        _publish(transaction, kind)


def published_kinds(transaction: ReferenceTransaction, kinds: Sequence[str]) -> list[bool]:
    """Whether the catalogue has each kind."""
    check_batch(len(kinds))
    return [_known(transaction, kind) is not None for kind in kinds]


def publish_descriptors(transaction: ReferenceTransaction, descriptors: Sequence[KindDescriptor]) -> list[bool]:
    """Publish kinds with their descriptors; returns for each whether its schema is missing."""
    check_batch(len(descriptors))
    return [_publish_descriptor(transaction, descriptor) for descriptor in descriptors]


def _publish_descriptor(transaction: ReferenceTransaction, given: KindDescriptor) -> bool:
    """Put a descriptor first. Without a schema, it keeps the schema that was published before."""
    known = _publish(transaction, given.kind)
    before = [descriptor for descriptor in known.descriptors if descriptor.digest == given.digest]
    if before and not given.schema:
        given = replace(given, schema=before[0].schema)
    others = [descriptor for descriptor in known.descriptors if descriptor.digest != given.digest]
    known.descriptors = [given, *others][:MAX_DESCRIPTORS]
    return not given.schema


def descriptors(transaction: ReferenceTransaction, kinds: Sequence[str]) -> list[tuple[KindDescriptor, ...]]:
    """The descriptors of each kind, the latest published first."""
    check_batch(len(kinds))
    known_kinds = [_known(transaction, kind) for kind in kinds]
    return [() if known is None else tuple(known.descriptors) for known in known_kinds]


def _known(transaction: ReferenceTransaction, kind: str) -> PublishedKind | None:
    known = transaction.state.kinds.get(kind)
    return known if known is not None and known.until_us > transaction.now_us else None


def _publish(transaction: ReferenceTransaction, kind: str) -> PublishedKind:
    known = _known(transaction, kind) or PublishedKind(until_us=0)
    known.until_us = transaction.now_us + transaction.limits.kinds_kept_us
    transaction.state.kinds[kind] = known
    return known
