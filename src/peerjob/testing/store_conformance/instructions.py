"""Instructions to nodes: the latest one comes with each renewal."""

from msgspec.structs import replace

from peerjob.model.record import Instruction
from peerjob.store.base import Store

from .suite import StoreSuite


class InstructionRules(StoreSuite):
    """Rules of `instruct`."""

    async def test_a_node_gets_the_latest_instruction_with_each_renewal(self, store: Store) -> None:
        peer, other = await self.join(store), await self.join(store)
        assert (await peer.renew()).instruction is None
        drain, undrain = Instruction(self.make.request(), drain=True), Instruction(self.make.request(), drain=False)
        assert await store.instruct(peer.incarnation, drain)
        assert await self.hinted(peer, "cancel")
        assert [(await peer.renew()).instruction for _ in range(2)] == [drain, drain]
        assert await store.instruct(peer.incarnation, undrain)
        assert await store.instruct(peer.incarnation, undrain)
        assert (await peer.renew()).instruction == undrain
        assert (await other.renew()).instruction is None

    async def test_a_join_keeps_the_instruction(self, store: Store) -> None:
        peer = await self.join(store)
        drain = Instruction(self.make.request(), drain=True)
        await store.instruct(peer.incarnation, drain)
        peer.info = replace(peer.info, kinds=tuple(f"kind-{number}" for number in range(20)))
        await peer.join()
        assert (await peer.renew()).instruction == drain

    async def test_a_node_that_is_not_alive_gets_no_instruction(self, store: Store) -> None:
        drain = Instruction(self.make.request(), drain=True)
        assert not await store.instruct(self.make.id(), drain)
        left, mortal = await self.join(store), await self.join_briefly(store)
        await store.leave(left.incarnation)
        assert not await store.instruct(left.incarnation, drain)
        await self.lapse()
        assert not await store.instruct(mortal.incarnation, drain)
