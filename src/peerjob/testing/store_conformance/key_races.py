"""Keys under commands that come at once, and under random commands."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  # seeded, so that a failed walk can be repeated
from collections import Counter

import pytest

from peerjob.model.record import Action, Claim
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .limit_suite import LimitSuite
from .suite import ids_of

DELAYS = (0, 0, 9**9)


class KeyRaceRules(LimitSuite):
    """Rules of the count of a key that hold after any commands."""

    async def test_ends_and_enqueues_at_once_strand_no_instance(self, store: Store) -> None:
        """A place becomes free between the read and the write of an enqueue or of another end."""
        other = await self.open()
        await self.limit_keys(store)
        peers = [await self.join(store, "one"), await self.join(other, "other")]
        for number in range(15):
            key = f"key {number}"
            await store.enqueue(self.keyed(2 + number % 2, key, 2))
            claims = [(await peer.take(1))[0] for peer in peers]
            late = [self.keyed(1, key, 2) for _ in range(3)]
            await self.in_time(
                asyncio.gather(
                    peers[0].end(claims[0]),
                    other.enqueue(late[0]),
                    peers[1].end(claims[1], Action.RETRY if number % 3 else Action.COMPLETE, delay_us=60_000_000),
                    store.enqueue(late[1]),
                    other.enqueue(late[2]),
                )
            )
            admitted, waiting = await self.counts_of(store, key)
            assert (admitted, waiting) == (2, 1 + number % 2)
            left = [claim for peer in peers for claim in await self.took(peer)]
            assert len(left) == 2
            while left:
                await peers[0].commit(*(outcome(claim) for claim in left))
                await peers[1].commit(*(outcome(claim) for claim in left))
                left = [claim for peer in peers for claim in await self.took(peer)]
            assert await self.counts_of(store, key) == (0, 0)

    @pytest.mark.parametrize("seed", range(3))
    async def test_random_commands_keep_the_counts(self, store: Store, seed: int) -> None:
        chance = random.Random(seed)
        await self.limit_keys(store, 2)
        peers = [await self.join(store, f"node {number}") for number in range(2)]
        held: dict[str, tuple[Peer, Claim]] = {}
        ids: list[str] = []
        concurrency = {"a": 1, "b": 2, "c": 3}
        for _ in range(60):
            peer = chance.choice(peers)
            match chance.choice(["enqueue", "enqueue", "claim", "claim", "end", "end", "end", "cancel", "run now"]):
                case "enqueue":
                    batch = [
                        new
                        for key in chance.choices(list(concurrency), k=chance.randint(1, 4))
                        for new in self.keyed(
                            1,
                            key,
                            concurrency[key],
                            priority=chance.randint(1, 3),
                            delay_us=chance.choice(DELAYS),
                        )
                    ]
                    await store.enqueue(batch)
                    ids += [new.id for new in batch]
                case "claim":
                    held |= {claim.id: (peer, claim) for claim in await peer.take(chance.randint(1, 3))}
                case "end" if held:
                    owner, claim = held.pop(chance.choice(list(held)))
                    action = chance.choice([Action.COMPLETE, Action.HAND_BACK, Action.RETRY, Action.SNOOZE])
                    await owner.end(claim, action, delay_us=chance.choice(DELAYS))
                case "cancel" if ids:
                    cancelled = chance.choices(ids, k=3)
                    await store.cancel(cancelled, request=self.make.request())
                    for id in set(cancelled) & held.keys():
                        owner, claim = held.pop(id)
                        await owner.end(claim, Action.RELEASE)
                case "run now" if ids:
                    await store.run_now(chance.choices(ids, k=3), request=self.make.request())
                case _:
                    pass
            claims = [claim for _, claim in held.values()]
            await self.assert_whole(store, *claims)
            keys = [key.key for key in await store.limit_keys(ids_of(claims)) if key is not None]
            assert all(count <= concurrency[key] for key, count in Counter(keys).items())
