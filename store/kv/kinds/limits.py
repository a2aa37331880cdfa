"""The verbs about limits. See `limit_rules`: each change of limits also writes the key of the layout."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from peerjob.model.errors import OptionError, StoreUnavailableError
from peerjob.model.record import LAST_MOMENT_US, check_batch
from peerjob.model.stored_limit import (
    MAX_HOLDERS,
    KeyLimitPage,
    KindLimits,
    LimitKey,
    LimitNumbers,
    LimitPage,
    LimitSetting,
    LimitSupport,
)
from peerjob.store.kv.format.base import Compare, Delete, Op, Put, Range, Transaction, mod_of
from peerjob.store.kv.format.keys import Keys, prefix_end
from peerjob.store.kv.format.layout import FLOWS_VALUE, LIMITS_VALUE
from peerjob.store.kv.format.limit_rows import LimitedKind, RateUse, StoredLimit
from peerjob.store.kv.format.rows import encode
from peerjob.store.kv.write.context import KVContext, retried
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.layouts import check_live_readers
from peerjob.store.kv.write.limit_rules import Rules
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import LIMITS_LAYOUT, check_kinds_of_limit, check_published, check_setting

from .descriptors import DescriptorCommands
from .key_views import KeyViews, limit_keys
from .limit_views import LimitViews, view_positions
from .permit_checks import PermitChecks

_MAX_KINDS = 15
"""The limits of so many kinds fit into one transaction."""
_NOT_SET = LimitNumbers()
_CHECKED = 500
"""Most permits that one check reads."""


class LimitDraft:
    """Changes of the limits of a namespace, until one transaction writes them."""

    def __init__(self, keys: Keys, rules: Rules) -> None:
        self._keys = keys
        self.kinds = dict(rules.kinds)
        self.limits = dict(rules.limits)
        self._stored = rules
        self.opened: dict[str, None] = {}
        """Kinds of which more instances may go."""

    def put_kind(self, kind: str, limited: LimitedKind) -> None:
        """Replace the limits of a kind; a kind without any needs no record."""
        self.kinds[kind] = limited
        if limited == LimitedKind():
            del self.kinds[kind]
        self.opened[kind] = None

    def put_limit(self, name: str, limit: StoredLimit) -> None:
        """Replace a shared limit; one without kinds and without a setting is gone."""
        self.limits[name] = limit
        if not limit.kinds and limit.setting == _NOT_SET:
            del self.limits[name]
        self.opened.update(dict.fromkeys(limit.kinds))

    def publish(self, published: KindLimits, support: LimitSupport) -> None:
        """Replace the limits of a kind by those of its code. Raises OptionError, and changes nothing."""
        check_published(published, support)
        kind, numbers = published.kind, {shared.name: shared.numbers for shared in published.shared}
        before = self.kinds.get(kind, LimitedKind())
        after = {name: self._with_kind(name, kind, code) for name, code in numbers.items()}
        for name, limit in after.items():
            check_kinds_of_limit(name, len(limit.kinds))
        for name in before.shared:
            if name in self.limits and name not in numbers:
                kinds = tuple(other for other in self.limits[name].kinds if other != kind)
                self.put_limit(name, replace(self.limits[name], kinds=kinds))
        for name, limit in after.items():
            self.put_limit(name, limit)
        shared, key_concurrency = tuple(numbers), published.key_concurrency
        self.put_kind(kind, replace(before, shared=shared, key_concurrency=key_concurrency))

    def _with_kind(self, name: str, kind: str, code: LimitNumbers) -> StoredLimit:
        limit = self.limits.get(name)
        if limit is None:
            # a damaged limit is written anew
            limit = StoredLimit(tuple(other for other, limited in self.kinds.items() if name in limited.shared))
        return replace(limit, kinds=tuple(sorted({*limit.kinds, kind})), code=code)

    def ops(self) -> list[Op]:
        """The writes that differ from what is stored."""
        keys, ops = self._keys, list[Op]()
        for kind in self.opened:
            new, old = self.kinds.get(kind), self._stored.kinds.get(kind)
            if new != old or (new is None and kind in self._stored.lacking):
                key = keys.limited_kind(kind)
                ops.append(Delete(key) if new is None else Put(key, encode(new)))
        for name in {**self._stored.limits, **self.limits}:
            limit = self.limits.get(name)
            if limit is None:
                ops += [Delete(keys.limit(name)), Delete(keys.rate_use(name))]
            elif limit != self._stored.limits.get(name):
                ops.append(Put(keys.limit(name), encode(limit)))
        return ops


class LimitCommands(DescriptorCommands):
    """The verbs about limits."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._checks = PermitChecks(context)

    @retried
    async def publish_limits(self, limits: Sequence[KindLimits]) -> None:
        check_batch(len(limits))
        if not any(of_kind.shared or of_kind.key_concurrency for of_kind in limits) and not self._context.kv.limited:
            return
        await self._publish([of_kind.kind for of_kind in limits])
        await self._publish_all(limits)

    async def _publish_all(self, limits: Sequence[KindLimits]) -> None:
        """Replace the limits of kinds, some in each transaction; after an error, those of the kinds before it."""
        support = self._kv.capabilities.limits
        errors: list[OptionError] = []

        def plan(part: Sequence[KindLimits], draft: LimitDraft) -> None:
            errors.clear()
            try:
                for of_kind in part:
                    draft.publish(of_kind, support)
            except OptionError as error:
                errors.append(error)

        for at in range(0, len(limits), _MAX_KINDS):
            await self._change(functools.partial(plan, limits[at : at + _MAX_KINDS]))
            if errors:
                raise errors[0]

    @retried
    async def set_limit(self, setting: LimitSetting) -> bool:
        check_setting(setting, self._kv.capabilities.limits)
        done = False

        def plan(draft: LimitDraft) -> None:
            nonlocal done
            note = "" if setting.numbers == _NOT_SET else setting.note
            limit, limited = draft.limits.get(setting.name), draft.kinds.get(setting.kind)
            if setting.name:
                done = limit is not None and (limit.setting != _NOT_SET or setting.numbers != _NOT_SET)
                if limit is not None:
                    draft.put_limit(setting.name, replace(limit, setting=setting.numbers, note=note))
                return
            number = setting.numbers.concurrency
            done = limited is not None and (limited.key_setting > 0 or (number > 0 and limited.key_concurrency > 0))
            if limited is not None and done:
                draft.put_kind(setting.kind, replace(limited, key_setting=number, note=note))

        await self._change(plan)
        if done and setting.kind:
            await self._open_gates(setting.kind)
        return done

    async def _open_gates(self, kind: str) -> None:
        """Let waiting instances of a kind pass where the new concurrency of its limit keys allows it."""
        prefix = self._keys.head(self._keys.waits) + "/"
        start = f"{prefix}{self._keys.kind(kind)}/"
        end = prefix_end(start)
        while start:
            (page,) = await self._kv.read([Range(start, end, _CHECKED, keys_only=True)])
            await self._context.settle({self._keys.gate_of(key, prefix): set() for key, _ in page.items})
            start = page.next_key if page.more else ""

    @retried
    async def pause_kind(self, kind: str, paused: bool, note: str = "") -> None:
        def plan(draft: LimitDraft) -> None:
            limited = draft.kinds.get(kind, LimitedKind())
            if paused or limited.paused:
                draft.put_kind(kind, replace(limited, paused=paused, reason=note if paused else ""))

        await self._change(plan)

    async def _change(self, plan: Callable[[LimitDraft], None]) -> None:
        """Change limits in one transaction, and wake nodes for what may go from now on."""
        context, kv, keys = self._context, self._context.kv, self._keys
        for _ in range(8 * ROUNDS):
            rules = await context.limit_rules.current()
            draft = LimitDraft(keys, rules)
            plan(draft)
            ops = draft.ops()
            if ops and not kv.limited:
                await check_live_readers(kv, keys, LIMITS_LAYOUT, "limits", url=context.url)
            ops.append(Put(keys.layout, FLOWS_VALUE if kv.durable else LIMITS_VALUE))
            # without a change, the transaction still shows that the limits are those that this store knows
            transaction = Transaction([], ops if len(ops) > 1 else [])
            applied = await kv.txn([transaction], guards=[rules.stamp])
            if applied.answers[0] is not None:
                if len(ops) > 1:
                    context.limit_rules.changed(rules, draft.kinds, draft.limits, applied.revision)
                    await kv.read_layout()
                    await context.hints.wake(Wakeups(opened=tuple(draft.opened)))
                return
        raise StoreUnavailableError(context.url, "the limits of the namespace change again and again")

    @retried
    async def throttle(self, name: str, delay_us: int, *, shorten: bool = False) -> bool:
        context, key = self._context, self._keys.rate_use(name)
        for _ in range(8 * ROUNDS):
            rules = await context.limit_rules.current()
            limit, now_us = rules.limits.get(name), context.clock_skew.median_us()
            if limit is None or not limit.kinds:
                if (await self._kv.txn([Transaction([], [])], guards=[rules.stamp])).answers[0] is not None:
                    return False
                continue
            answers = await self._kv.read(context.limit_rules.reads(name))
            state = context.limit_rules.states(rules, [name], answers, now_us)[name]
            closed_us = min(now_us + max(0, delay_us), LAST_MOMENT_US)
            use = RateUse(state.use.tat_us, closed_us if shorten else max(closed_us, state.use.closed_us))
            transaction = Transaction([Compare(key, mod=mod_of(state.entry))], [Put(key, encode(use))])
            if (await self._kv.txn([transaction], guards=[rules.stamp])).answers[0] is not None:
                if use.closed_us < state.use.closed_us:
                    await context.hints.wake(Wakeups(opened=limit.kinds))
                return True
        raise StoreUnavailableError(context.url, "the limit changes again and again")

    # -- views ----------------------------------------------------------------------------------------------------

    @retried
    async def limits(self, *, kind: str | None = None, cursor: str | None = None, limit: int = 100) -> LimitPage:
        context = self._context
        # a read compares no layout, so this store may not know the last change
        await context.kv.read_layout()
        rules = await context.limit_rules.current()
        positions = view_positions(rules, kind, cursor)
        views = await LimitViews(context, rules).read(positions[:limit])
        return LimitPage(tuple(views), positions[limit - 1] if len(positions) > limit else None)

    @retried
    async def key_limits(
        self,
        kind: str,
        *,
        prefix: str = "",
        waiting_only: bool = False,
        cursor: str | None = None,
        limit: int = 500,
    ) -> KeyLimitPage:
        # see `limits`
        await self._context.kv.read_layout()
        views = KeyViews(self._context, kind)
        keys, more = await views.keys(prefix, cursor, limit, waiting_only=waiting_only)
        bare = await views.without_key() if not (prefix or waiting_only or cursor) else []
        return KeyLimitPage((*bare, *await views.read(keys)), keys[-1] if more and keys else None)

    @retried
    async def limit_keys(self, ids: Sequence[str]) -> list[LimitKey | None]:
        check_batch(len(ids))
        return await limit_keys(self._context, ids)

    @retried
    async def key_holders(self, kind: str, key: str) -> list[str]:
        rules = await self._context.limit_rules.current()
        state = (await self._context.gates.read([(kind, key)], rules))[kind, key]
        return [permit.id for _, permit in sorted(state.known, key=lambda item: item[0])][:MAX_HOLDERS]

    # -- checks ---------------------------------------------------------------------------------------------------

    @retried
    async def check_limits(self, cursor: str | None = None) -> tuple[int, str | None]:
        if cursor is None:
            # see `limits`: the check opens the gates that a caller of `set_limit` has left when it died
            await self._context.kv.read_layout()
        if not self._context.kv.limited:
            return 0, None
        freed, after = await self._checks.page(cursor)
        if after is None:
            await self._drop_unknown_kinds()
        return freed, after

    async def _drop_unknown_kinds(self) -> None:
        """Remove the published limits of kinds that have left the catalogue."""
        kinds = (await self._context.limit_rules.current()).kinds
        published = [kind for kind, limited in kinds.items() if limited.shared or limited.key_concurrency]
        known = await self._kv.get([self._keys.catalogued(kind) for kind in published])
        gone = [kind for kind, entry in zip(published, known, strict=True) if entry is None]
        await self._publish_all([KindLimits(kind=kind) for kind in gone])
