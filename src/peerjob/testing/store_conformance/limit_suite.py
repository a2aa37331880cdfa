"""Shared by the parts about limits: limits of kinds, and what the views say about them."""

from __future__ import annotations

from msgspec.structs import replace

from peerjob.model.limit import limit_numbers
from peerjob.model.record import Claim, NewInstance, NodeInfo
from peerjob.model.stored_limit import KeyLimitView, KindLimits, LimitNumbers, LimitSetting, LimitView, SharedLimit
from peerjob.store.base import Store
from peerjob.store.rules import LAYOUT
from peerjob.testing.factories import InstanceOptions, Peer

from .suite import StoreSuite


class LimitSuite(StoreSuite):
    """Helpers for limits."""

    async def limit(
        self,
        store: Store,
        *kinds: str,
        name: str = "shared",
        concurrency: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
    ) -> None:
        """Let kinds (by default "work") share a limit."""
        shared = (SharedLimit(name=name, numbers=limit_numbers(concurrency, rate, burst)),)
        await store.publish_limits([KindLimits(kind=kind, shared=shared) for kind in kinds or ("work",)])

    async def unlimit(self, store: Store, *kinds: str) -> None:
        """Publish kinds (by default "work") without limits."""
        await store.publish_limits([KindLimits(kind=kind) for kind in kinds or ("work",)])

    async def limit_keys(self, store: Store, concurrency: int = 1, kind: str = "work") -> None:
        """Give a kind a key limit."""
        await store.publish_limits([KindLimits(kind=kind, key_concurrency=concurrency)])

    async def set_limit(self, store: Store, name: str = "shared", note: str = "", **numbers: int) -> bool:
        """Set numbers of a shared limit; none removes the setting."""
        return await store.set_limit(LimitSetting(name=name, numbers=LimitNumbers(**numbers), note=note))

    async def set_key_limit(self, store: Store, concurrency: int = 0, kind: str = "work") -> bool:
        """Set the concurrency of the keys of a kind; 0 removes the setting."""
        numbers = LimitNumbers(concurrency=concurrency)
        return await store.set_limit(LimitSetting(kind=kind, numbers=numbers))

    async def limit_view(self, store: Store, name: str = "shared") -> LimitView:
        """The view of a shared limit."""
        (view,) = [view for view in await self.views(store) if view.name == name]
        return view

    async def views(self, store: Store, kind: str | None = None) -> list[LimitView]:
        """All views of limits, in pages of two."""
        views: list[LimitView] = []
        cursor: str | None = None
        while True:
            page = await store.limits(kind=kind, cursor=cursor, limit=2)
            views += page.views
            cursor = page.cursor
            if cursor is None:
                return views

    async def keys(
        self, store: Store, kind: str = "work", *, prefix: str = "", waiting_only: bool = False
    ) -> dict[str, KeyLimitView]:
        """The views of the keys of a kind, in pages."""
        views: list[KeyLimitView] = []
        cursor: str | None = None
        while True:
            page = await store.key_limits(kind, prefix=prefix, waiting_only=waiting_only, cursor=cursor, limit=2)
            views += page.views
            cursor = page.cursor
            if cursor is None:
                break
        by_key = {view.key: view for view in views}
        assert len(by_key) == len(views)
        return by_key

    async def counts_of(self, store: Store, key: str = "a", kind: str = "work") -> tuple[int, int]:
        """How many instances of a key are admitted, and how many wait."""
        view = (await self.keys(store, kind)).get(key)
        return (0, 0) if view is None else (view.admitted, view.waiting)

    def keyed(self, count: int, key: str = "a", concurrency: int = 1, **options: object) -> list[NewInstance]:
        """Instances with one limit key."""
        given: InstanceOptions = {"limit_key": key, "key_concurrency": concurrency, **options}  # type: ignore[typeddict-item]
        return self.make.instances(count, **given)

    def unique(self) -> NewInstance:
        """An instance with a limit key and a unique key."""
        return self.make.instance(limit_key="b", key_concurrency=1, key="unique")

    async def assert_whole(self, store: Store, *held: Claim, kind: str = "work") -> None:
        """Check that admitted instances are queued or claimed, and that none waits for a key with a free place."""
        views = await self.keys(store, kind)
        bare = views.pop("", None)
        assert bare is None, "each instance has a key"
        claimed = sum(claim.kind == kind for claim in held)
        assert sum(view.admitted for view in views.values()) == (await store.due([kind])).get(kind, 0) + claimed
        for view in views.values():
            assert view.concurrency is not None
            assert view.waiting == 0 or view.admitted >= view.concurrency, view
            assert view.admitted + view.waiting > 0, view

    def older(self, peer: Peer) -> NodeInfo:
        """The description of a peer as a release before limits writes it."""
        return replace(peer.info, reads_layout=LAYOUT)

    async def drained(self, peer: Peer) -> list[str]:
        """Claim and complete one instance after the other; returns their ids in this order."""
        ids: list[str] = []
        while claims := await peer.take(1):
            ids += [claim.id for claim in claims]
            await self.pass_time(0.001)
            for claim in claims:
                await peer.end(claim)
        return ids

    async def took(self, peer: Peer, limit: int = 100) -> list[Claim]:
        """Claim until nothing may go."""
        claims: list[Claim] = []
        while more := await peer.take(limit):
            claims += more
        return claims
