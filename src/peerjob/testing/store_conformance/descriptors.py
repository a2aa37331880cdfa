"""The descriptors of kinds: each is stored once, and the last ones of a kind are kept."""

import pytest
from msgspec.structs import replace

from peerjob.model.published import DIGEST_BYTES, MAX_DESCRIPTORS, KindDescriptor, digests_of
from peerjob.model.record import MAX_BATCH, StoreLimits
from peerjob.store.base import Store

from .suite import StoreSuite


def described(kind: str, version: int = 1, schema: bytes = b"", size: int = 20) -> KindDescriptor:
    """Make a descriptor; those of one kind differ by the version."""
    digest = version.to_bytes(DIGEST_BYTES, "big")
    return KindDescriptor(kind=kind, digest=digest, body=bytes([version]) * size, schema=schema)


class DescriptorRules(StoreSuite):
    """Rules of `publish_descriptors` and `descriptors`."""

    async def test_a_descriptor_is_read_as_it_was_published(self, store: Store) -> None:
        mail, odd = described("mail"), described("t\u00f6ne/%2F", schema=b"{}")
        assert await store.publish_descriptors([mail, odd]) == [True, False]
        assert await store.descriptors(["mail", "none", odd.kind]) == [(mail,), (), (odd,)]
        assert await store.published_kinds(["mail", "none", odd.kind]) == [True, False, True]
        assert await store.publish_descriptors([]) == []
        assert await store.descriptors([]) == []

    async def test_a_kind_without_a_descriptor_is_known(self, store: Store) -> None:
        await store.publish_kinds(["mail"])
        assert await store.descriptors(["mail"]) == [()]

    async def test_a_schema_that_came_once_stays(self, store: Store) -> None:
        assert await store.publish_descriptors([described("mail")]) == [True]
        whole = described("mail", schema=b"{...}")
        assert await store.publish_descriptors([whole]) == [False]
        assert await store.publish_descriptors([described("mail")]) == [False]
        assert await store.descriptors(["mail"]) == [(whole,)]

    async def test_the_last_ones_of_a_kind_are_kept_the_latest_first(self, store: Store) -> None:
        for version in range(MAX_DESCRIPTORS + 2):
            await store.publish_descriptors([described("mail", version)])
        first, *others = range(2, MAX_DESCRIPTORS + 2)
        kept = (*reversed(others), first)
        assert await store.descriptors(["mail"]) == [tuple(described("mail", version) for version in kept)]
        await store.publish_descriptors([described("mail", first, schema=b"{}")])
        (latest,) = await store.descriptors(["mail"])
        assert [descriptor.digest[-1] for descriptor in latest] == [first, *reversed(others)]
        assert latest[0].schema == b"{}"

    async def test_several_nodes_that_publish_at_once_lose_none(self, store: Store) -> None:
        other = await self.open()
        await store.publish_descriptors([described("mail", 1)])
        await other.publish_descriptors([described("mail", 2), described("text", 2)])
        await store.publish_descriptors([described("text", 1), described("mail", 1)])
        mail, text = await other.descriptors(["mail", "text"])
        assert [descriptor.digest[-1] for descriptor in mail] == [1, 2]
        assert [descriptor.digest[-1] for descriptor in text] == [1, 2]

    async def test_descriptors_belong_to_their_namespace_and_outlive_a_clear(self, store: Store) -> None:
        neighbour = await self.open(namespace=f"{self.namespace}b")
        await neighbour.publish_descriptors([described("mail")])
        assert await store.descriptors(["mail"]) == [()]
        await neighbour.clear()
        assert await neighbour.descriptors(["mail"]) == [(described("mail"),)]

    async def test_descriptors_end_with_their_kind(self, store: Store) -> None:
        brief = await self.open(StoreLimits(kinds_kept_us=3_000_000))
        await brief.publish_descriptors([described("old"), described("used")])
        for _ in range(200):
            await self.pass_time(0.25)
            await brief.publish_descriptors([described("used")])
            old, used = await brief.descriptors(["old", "used"])
            assert used == (described("used"),)
            if not old:
                return
        pytest.fail("the descriptor is still there")

    async def test_as_many_as_a_call_takes(self, store: Store) -> None:
        batch = [described(f"kind-{number}") for number in range(MAX_BATCH)]
        assert await store.publish_descriptors(batch) == [True] * MAX_BATCH
        assert await store.descriptors([descriptor.kind for descriptor in batch]) == [
            (descriptor,) for descriptor in batch
        ]
        with pytest.raises(ValueError, match="501"):
            await store.publish_descriptors([*batch, described("one more")])
        with pytest.raises(ValueError, match="501"):
            await store.descriptors(["kind"] * (MAX_BATCH + 1))

    async def test_descriptors_of_the_largest_size(self, store: Store) -> None:
        builds = [
            [described(f"kind-{number}", version, b"s" * (16 << 10), 8 << 10) for number in range(40)]
            for version in range(MAX_DESCRIPTORS)
        ]
        for build in builds:
            assert await store.publish_descriptors(build) == [False] * 40
        assert await store.descriptors([descriptor.kind for descriptor in builds[0]]) == list(
            zip(*reversed(builds), strict=True)
        )

    async def test_a_row_of_a_node_has_the_digests_of_its_kinds(self, store: Store) -> None:
        for count in (2, 300):
            peer = await self.join(store, f"node-{count}", [f"kind-{number}" for number in range(count)])
            digests = b"".join((number + 1).to_bytes(DIGEST_BYTES, "big") for number in range(count - 1))
            peer.info = replace(peer.info, descriptors=digests + bytes(DIGEST_BYTES))
            await peer.join()
            other = await self.open()
            (view,) = [view for view in await other.nodes() if view.name == peer.name]
            assert view.info == peer.info
            *_, before, last = digests_of(view.info.kinds, view.info.descriptors)
            assert last == (f"kind-{count - 1}", b"")
            assert before == (f"kind-{count - 2}", (count - 1).to_bytes(DIGEST_BYTES, "big"))
