"""The catalogue of kinds: a published kind is known for as long as the limits say."""

import pytest

from peerjob.model.record import MAX_BATCH, StoreLimits
from peerjob.store.base import Store

from .suite import StoreSuite


class CatalogueRules(StoreSuite):
    """Rules of `publish_kinds` and `published_kinds`."""

    async def test_a_published_kind_is_known(self, store: Store) -> None:
        await store.publish_kinds(["mail", "töne", "a/b%2F", "x" * 200])
        asked = ["töne", "text", "a/b%2F", "a/b", "x" * 200, "x" * 199, "mail"]
        assert await store.published_kinds(asked) == [True, False, True, False, True, False, True]
        assert await store.published_kinds([]) == []

    async def test_a_kind_outlives_its_nodes_and_a_clear(self, store: Store) -> None:
        peer = await self.join(store, kinds=["mail"])
        await store.publish_kinds(["mail"])
        await store.leave(peer.incarnation)
        await store.clear()
        assert await store.published_kinds(["mail"]) == [True]

    async def test_a_kind_that_only_has_instances_is_not_published(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        assert await store.published_kinds(["work"]) == [False]

    async def test_a_catalogue_belongs_to_its_namespace(self, store: Store) -> None:
        neighbour = await self.open(namespace=f"{self.namespace}b")
        await neighbour.publish_kinds(["mail"])
        assert await store.published_kinds(["mail"]) == [False]

    async def test_a_kind_that_is_published_no_more_is_forgotten(self, store: Store) -> None:
        brief = await self.open(StoreLimits(kinds_kept_us=3_000_000))
        await brief.publish_kinds(["old", "used"])
        for _ in range(200):
            await self.pass_time(0.25)
            await brief.publish_kinds(["used"])
            old, used = await brief.published_kinds(["old", "used"])
            assert used
            if not old:
                return
        pytest.fail("the kind is still known")

    async def test_as_many_kinds_as_a_call_takes(self, store: Store) -> None:
        kinds = [f"kind-{number}" for number in range(MAX_BATCH)]
        await store.publish_kinds(kinds)
        await store.publish_kinds(kinds)
        assert await store.published_kinds(kinds) == [True] * MAX_BATCH
        for call in (store.publish_kinds, store.published_kinds):
            with pytest.raises(ValueError, match="501"):
                await call([*kinds, "one more"])
