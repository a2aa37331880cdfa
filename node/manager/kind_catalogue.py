"""Publishes the kinds that this node runs, and knows what other nodes publish and which kinds a live node runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace
from itertools import chain

from msgspec import structs

from peerjob.cluster.role import BackgroundRole, wait_set
from peerjob.model.clock import Clock
from peerjob.model.descriptor import MAX_BODY, Descriptor, descriptor_of
from peerjob.model.errors import LayoutError, OptionError, StoreError, StoreFullError
from peerjob.model.published import KindDescriptor, digests_of
from peerjob.model.record import MAX_BATCH
from peerjob.model.stored_limit import KindLimits
from peerjob.node.body.registry import Registry
from peerjob.node.body.schema import schema_of
from peerjob.store.base import Store

from .kind_rules import DescribedKind, KindRule, ListedKind
from .loop_pauses import map_with_pauses

logger = logging.getLogger("peerjob.node")

PUBLISH_INTERVAL = 6 * 3600.0
"""Seconds between two publications. The store forgets a kind that was not published for a long time."""
MAX_SERVED_AGE = 5.0
"""Seconds for which one read of the kinds of live nodes is used."""
MAX_COUNT_AGE = 60.0
"""Seconds for which one count of the kinds of the namespace is used."""
MAX_PUBLISHED = 100
"""Most descriptors in one call of the store."""
MAX_READ = 50
"""Most kinds whose descriptors one call of the store reads."""
MAX_NAMES = 20
"""Most names of nodes that a listed kind has."""
MAX_DESCRIBED = 10_000
"""Most descriptors of other nodes that are kept compiled; the oldest is dropped first."""
MAX_REMEMBERED = 20_000
"""Most kinds that are remembered as known, and most that are remembered as warned about; a full set is emptied."""


class KindCatalogue(BackgroundRole):
    """The kinds of the namespace, as far as this node has read them.

    The latest published of several builds with one version comes first, because the store lists it first.
    """

    name = "catalogue"

    def __init__(
        self,
        clock: Clock,
        store: Store,
        node: str,
        kinds: Callable[[], Sequence[str]],
        registry: Registry,
        max_kinds: int,
        claim_again: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(clock)
        self._claim_again = claim_again
        self._limits: dict[str, KindLimits] = {}
        """The published limits of the kinds that this node runs."""
        self._claimable: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        """All kinds of this node, and those of them that it may claim."""
        self._max_kinds = max_kinds
        self._admitted: set[str] = set()
        self._remaining = 0
        self._counted_at: float | None = None
        self._store = store
        self._node = node
        self._kinds = kinds
        self._changed = asyncio.Event()
        self._undocumented: list[KindDescriptor] = []
        """Own descriptors without a stored schema."""
        self._known: set[str] = set()
        self._warned: set[str] = set()
        self._registry = registry
        self._live: dict[str, frozenset[bytes]] = {}
        """Kind → the digests of its descriptors on live nodes; b"" for a node that does not describe the kind."""
        self._rows: list[tuple[tuple[str, ...], bytes]] = []
        """The kinds and digests of each live node, from which `_live` was made."""
        self._looking = asyncio.Lock()
        self._rules: dict[str, KindRule] = {}
        self._current: set[str] = set()
        """The kinds whose rule is that of the present `_live`. Calls under way still use the rules of before."""
        self._described: dict[tuple[str, bytes], DescribedKind | None] = {}
        """Descriptors by kind and digest; None for one that this release cannot read."""
        self._partial: set[str] = set()
        """Kinds of which the store lacked a live descriptor: a joining node publishes after it joins."""
        self._lacked_at: float | None = None
        """When the store last told that it lacks limits."""
        self._looked_at: float | None = None
        self._unanswered_at: float | None = None
        """When the store did not answer a look, unless it answered a later one."""

    def limits_missing(self) -> None:
        """Publish the kinds soon, because the store lacks limits; without own limits, once a minute at most."""
        now = self.clock.elapsed()
        if self._limits or self._lacked_at is None or now - self._lacked_at >= MAX_COUNT_AGE:
            self._lacked_at = now
            if not self._changed.is_set():
                logger.warning("the store lacks limits of kinds; the node publishes its kinds again")
            self._changed.set()

    def changed(self) -> None:
        """Publish the kinds soon, because they have changed."""
        self._changed.set()

    async def publish_first(self) -> None:
        """Publish the kinds before the node claims; after an error of the store, the role tries again.

        Raises LayoutError and OptionError if the namespace cannot have the limits of these kinds.
        """
        try:
            await self.publish()
        except LayoutError:
            raise
        except StoreError as error:
            logger.debug("the kinds of this node are not published yet: %s", error)

    def claimable(self) -> tuple[str, ...]:
        """The kinds that this node may claim: all but those whose limits are not published yet."""
        kinds = self._registry.kinds()
        if self._claimable[0] is not kinds:
            unpublished = {
                limits.kind
                for limits in self._registry.limits()
                if limits != self._limits.get(limits.kind, KindLimits(kind=limits.kind))
            }
            self._claimable = kinds, tuple(kind for kind in kinds if kind not in unpublished) if unpublished else kinds
        return self._claimable[1]

    async def publish(self) -> None:
        """Publish every kind that this node runs, with its descriptor and its limits; raises StoreError."""
        kinds = self._kinds()
        descriptors = self._registry.descriptors() if kinds else {}
        self._undocumented = await self._publish(list(descriptors.values()))
        bare = [kind for kind in kinds if kind not in descriptors]
        for at in range(0, len(bare), MAX_BATCH):
            await self._store.publish_kinds(bare[at : at + MAX_BATCH])
        for kind in bare:
            logger.warning(
                "kind %r: its parameters and options have over %d bytes, so other nodes neither check its calls nor "
                "apply its options",
                kind,
                MAX_BODY,
            )
        limits = self._registry.limits() if kinds else []
        for at in range(0, len(limits), MAX_BATCH):
            await self._store.publish_limits(limits[at : at + MAX_BATCH])
        if kinds:
            self._limits = {row.kind: row for row in limits if row.shared or row.key_concurrency}
            self._claimable = (), ()
            self._claim_again()

    async def _publish(self, descriptors: Sequence[KindDescriptor]) -> list[KindDescriptor]:
        """Publish descriptors in parts; returns those without a stored schema."""
        missing: list[KindDescriptor] = []
        for at in range(0, len(descriptors), MAX_PUBLISHED):
            part = descriptors[at : at + MAX_PUBLISHED]
            answers = await self._store.publish_descriptors(part)
            missing += [descriptor for descriptor, lacks in zip(part, answers, strict=True) if lacks]
        return missing

    async def _document(self) -> None:
        """Make the schemas that no node has made yet; raises StoreError."""
        while self._undocumented:
            part = self._undocumented[:MAX_PUBLISHED]
            made = await map_with_pauses(part, self._documented)
            await self._publish(made)
            del self._undocumented[: len(part)]

    def _documented(self, descriptor: KindDescriptor) -> KindDescriptor:
        binding = self._registry.binding(descriptor.kind)
        return descriptor if binding is None else structs.replace(descriptor, schema=schema_of(binding.signature))

    async def run(self) -> None:
        while True:
            await self._document()
            await wait_set(self._changed, PUBLISH_INTERVAL)
            self._changed.clear()
            try:
                await self.publish()
            except OptionError as error:
                logger.error("the node does not claim kinds whose limits cannot be published: %s", error)  # noqa: TRY400
            except BaseException:
                self._changed.set()
                raise

    async def knows(self, kind: str) -> bool:
        """Whether a node of the namespace published a kind or runs it. Asks the store unless the kind is remembered."""
        if kind in self._known:
            return True
        (known,) = await self._store.published_kinds([kind])
        if known:
            _remember(self._known, kind)
        # ask the live nodes too: a node can run a kind that it failed to publish, or that the store has lost
        return known or kind in await self.served()

    async def admit(self, kind: str) -> None:
        """Raise StoreFullError if a kind that no node has published would exceed the limit of kinds.

        Each node counts the kinds once a minute, so several nodes together can exceed the limit for a minute.
        """
        if kind in self._admitted or await self.knows(kind):
            return
        now = asyncio.get_running_loop().time()
        if self._counted_at is None or now - self._counted_at >= MAX_COUNT_AGE:
            counts = (await self._store.health()).counts
            self._counted_at = now
            self._remaining = self._max_kinds - len(counts)
            self._admitted = set(counts)
        if kind in self._admitted:
            return
        if self._remaining <= 0:
            raise StoreFullError(
                f"no room for another kind: the namespace has {self._max_kinds:,} kinds or more, the limit "
                f"(StoreLimits.max_kinds), and no node has published {kind!r}"
            )
        self._remaining -= 1
        self._admitted.add(kind)

    async def check_served(self, kind: str) -> bool:
        """Whether a live node runs a kind, as of the last few seconds. Warns once for each kind that none runs."""
        if self._is_recent(self._unanswered_at):
            return True  # the next kind of a bulk call must not wait as long again
        try:
            if kind in await self.served():
                return True
        except StoreError:
            # the store does not answer, so a live node possibly runs the kind: do not warn
            self._unanswered_at = self.clock.elapsed()
            return True
        if kind not in self._warned:
            _remember(self._warned, kind)
            logger.warning(
                "node %r scheduled an instance of kind %r, which no live node runs; it waits for a node that does",
                self._node,
                kind,
            )
        return False

    def needs_no_look(self, kind: str, *, registered: bool) -> bool:
        """Whether the last few seconds showed that a kind is served, or that it is admitted and warned about.

        A kind that is `registered` here needs no admission.
        """
        admitted = registered or kind in self._known or kind in self._admitted
        return (kind in self._live or (admitted and kind in self._warned)) and self._is_fresh()

    async def served(self) -> Set[str]:
        """The kinds that live nodes run, as of the last few seconds; raises StoreError."""
        if not self._is_fresh():
            await self._look()
        return self._live.keys()

    async def _look(self) -> None:
        """Read the live nodes, and forget the rules if their kinds have changed."""
        rows = [(node.info.kinds, node.info.descriptors) for node in await self._store.nodes()]
        self._looked_at, self._unanswered_at = self.clock.elapsed(), None
        self._current -= self._partial
        self._partial.clear()
        if rows == self._rows:
            return
        live: dict[str, set[bytes]] = {}
        for kinds, digests in dict.fromkeys(rows):  # most nodes have the same kinds, and count once
            for kind, digest in digests_of(kinds, digests):
                live.setdefault(kind, set()).add(digest)
        self._rows = rows
        self._live = {kind: frozenset(digests) for kind, digests in live.items()}
        self._current.clear()

    # -- kinds whose code is elsewhere -------------------------------------------------------------------------------

    def rule_of(self, kind: str) -> KindRule | None:
        """What other nodes say about a kind, as of the last `prepare`."""
        return self._rules.get(kind)

    def is_prepared(self, kind: str) -> bool:
        """Whether `rule_of` has the kind, as of the last few seconds."""
        return kind in self._current and self._is_fresh()

    async def prepare(self, kinds: Iterable[str], *, again: bool = False) -> None:
        """Read what other nodes say about kinds, unless it is known; `again` reads it anew. Raises StoreError."""
        async with self._looking:  # calls that come together look once
            if again or not self._is_fresh():
                await self._look()
        known, unread, rules = self._described, list[str](), list[KindRule]()
        for kind in dict.fromkeys(kinds):
            if kind in self._current and not again:
                continue
            digests = self._live.get(kind)
            # the store knows which one of several builds was published last
            if (
                again
                or digests is None
                or len(digests) > 1
                or any((kind, digest) not in known for digest in digests if digest)
            ):
                unread.append(kind)
            else:
                rules.append(self._rule(kind, [known.get((kind, digest)) for digest in digests]))
        for at in range(0, len(rules), MAX_READ):
            await self._set(rules[at : at + MAX_READ])
        for at in range(0, len(unread), MAX_READ):
            part = unread[at : at + MAX_READ]
            stored = await self._store.descriptors(part)
            await self._set([self._read(kind, of_kind) for kind, of_kind in zip(part, stored, strict=True)])

    async def listed(self, kind: str | None = None) -> list[ListedKind]:
        """The kinds that live nodes run, by name, or only one of them; raises StoreError."""
        names: dict[tuple[tuple[str, ...], bytes], list[str]] = {}  # most nodes have the same kinds
        for view in await self._store.nodes():
            names.setdefault((view.info.kinds, view.info.descriptors), []).append(view.name)
        live: dict[str, dict[bytes, list[str]]] = {}
        for row, of_row in names.items():
            for name, digest in digests_of(*row):
                if kind in (None, name):
                    by_digest = live.setdefault(name, {})
                    by_digest[digest] = by_digest.get(digest, []) + of_row
        kinds, listed = sorted(live), list[ListedKind]()
        for at in range(0, len(kinds), MAX_READ):
            part = kinds[at : at + MAX_READ]
            for name, stored in zip(part, await self._store.descriptors(part), strict=True):
                read = [
                    (stored_kind, descriptor_of(stored_kind.body))
                    for stored_kind in stored
                    if stored_kind.digest in live[name]
                ]
                readable = [(stored_kind, descriptor) for stored_kind, descriptor in read if descriptor is not None]
                latest, schema = Descriptor(), b""
                if readable:
                    latest_kind, latest = max(readable, key=lambda pair: pair[1].version)
                    schema = latest_kind.schema
                nodes = sorted(chain.from_iterable(live[name].values()))
                shown = tuple(nodes[:MAX_NAMES])
                listed.append(
                    ListedKind(kind=name, descriptor=latest, schema=schema, nodes=shown, node_count=len(nodes))
                )
        return listed

    async def _set(self, rules: Sequence[KindRule]) -> None:
        """Remember the rules of at most MAX_READ kinds."""
        for rule in await asyncio.gather(*map(self._with_key_limit, rules)):
            self._rules.pop(rule.kind, None)
            if len(self._rules) >= MAX_DESCRIBED:
                oldest = next(iter(self._rules))
                del self._rules[oldest]
                self._current.discard(oldest)
            self._rules[rule.kind] = rule
            self._current.add(rule.kind)

    async def _with_key_limit(self, rule: KindRule) -> KindRule:
        """The rule of a kind; a node that does not describe the kind can have given it a key limit."""
        if rule.is_complete:
            return rule
        views = (await self._store.limits(kind=rule.kind)).views
        return replace(rule, has_key_limit=any(not view.name and view.concurrency is not None for view in views))

    def _read(self, kind: str, stored: Sequence[KindDescriptor]) -> KindRule:
        live = self._live.get(kind, frozenset(descriptor.digest for descriptor in stored[:1]))
        compiled = {descriptor.digest: self._compiled(descriptor) for descriptor in stored if descriptor.digest in live}
        missing = live - compiled.keys()
        if missing - {b""}:
            self._partial.add(kind)
        return self._rule(kind, [*compiled.values(), *(None for _ in missing)])

    def _rule(self, kind: str, described: Sequence[DescribedKind | None]) -> KindRule:
        known = [description for description in described if description is not None]
        known.sort(key=lambda description: -description.version)
        return KindRule(kind=kind, described=tuple(known), is_complete=bool(known) and len(known) == len(described))

    def _compiled(self, stored: KindDescriptor) -> DescribedKind | None:
        known_by = stored.kind, stored.digest
        if known_by not in self._described:
            if len(self._described) >= MAX_DESCRIBED:
                del self._described[next(iter(self._described))]
            descriptor = descriptor_of(stored.body)
            self._described[known_by] = None if descriptor is None else DescribedKind(stored.kind, descriptor)
        return self._described[known_by]

    def _is_fresh(self) -> bool:
        return self._is_recent(self._looked_at)

    def _is_recent(self, at: float | None) -> bool:
        return at is not None and self.clock.elapsed() - at < MAX_SERVED_AGE


def _remember(kinds: set[str], kind: str) -> None:
    if len(kinds) >= MAX_REMEMBERED:
        kinds.clear()
    kinds.add(kind)
