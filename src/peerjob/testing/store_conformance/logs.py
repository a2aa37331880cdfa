"""Log lines of an instance: whole, in order, followed by a cursor, bounded."""

from peerjob.model.query import Filter
from peerjob.model.record import Ack, Action, LogLine, LogPage, StoreLimits
from peerjob.model.state import Level
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .suite import StoreSuite


class LogRules(StoreSuite):
    """Rules of `logs`."""

    async def write(self, peer: Peer, count: int, start: int = 0) -> str:
        """Write numbered lines of one new instance, five at a time; return its id."""
        await peer.store.enqueue(self.make.instances(1))
        claim = await peer.take_one()
        lines = [self.make.line(str(number)) for number in range(start, start + count)]
        for first in range(0, count, 5):
            await peer.report(claim, logs=tuple(lines[first : first + 5]))
        return claim.id

    async def test_a_line_comes_back_as_it_was(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        lines = (
            LogLine(1_764_000_000_123_456, Level.ERROR, "größer\nals \x00 alles", 3, "knoten", {"a": [1, None]}),
            LogLine(0, Level.DEBUG, "", 0, "", None),
            LogLine(5, Level.INFO, "x" * 20_000),
        )  # fmt: skip
        await peer.report(claim, logs=lines)
        assert await self.lines(store, claim.id) == lines

    async def test_lines_are_added_to_an_instance_in_any_state(self, store: Store) -> None:
        queued, held, done = self.make.instances(3)
        await store.enqueue([held, done])
        peer = await self.join(store)
        claims = {claim.id: claim for claim in await peer.take(2)}
        await peer.report(claims[done.id], logs=(self.make.line("from the run"),))
        await peer.end(claims[done.id])
        await store.enqueue([queued])
        before = {new.id: await self.read(store, new.id) for new in (queued, held, done)}
        for new in (queued, held, done):
            assert await store.add_lines(new.id, [self.make.line("first"), self.make.line("second")])
            assert await store.add_lines(new.id, [self.make.line("third")])
            assert await self.read(store, new.id) == before[new.id]
        assert not await store.add_lines(self.make.id(), [self.make.line("first")])
        added = ["first", "second", "third"]
        assert [line.message for line in await self.lines(store, queued.id)] == added
        assert [line.message for line in await self.lines(store, done.id)] == ["from the run", *added]
        assert await peer.end(claims[held.id]) is Ack.DONE
        assert (await peer.take_one()).id == queued.id

    async def test_added_lines_are_bounded(self, store: Store) -> None:
        small = await self.open(StoreLimits(max_log_lines=5))
        await small.enqueue(self.make.instances(1))
        (record,) = (await self.first_page(small)).records
        for number in range(8):
            await small.add_lines(record.id, [self.make.line(str(number))])
        page = await small.logs(record.id)
        assert ([line.message for line in page.lines], page.dropped) == (["3", "4", "5", "6", "7"], 3)

    async def test_lines_of_others_are_elsewhere(self, store: Store) -> None:
        peer = await self.join(store)
        first, other = await self.write(peer, 3), await self.write(peer, 2, start=10)
        assert [line.message for line in await self.lines(store, first)] == ["0", "1", "2"]
        assert [line.message for line in await self.lines(store, other)] == ["10", "11"]

    async def test_an_instance_without_lines_has_an_empty_page(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        claim = await (await self.join(store)).take_one()
        for id in (claim.id, self.make.id()):
            page = await store.logs(id)
            assert (page.lines, page.dropped) == ((), 0)

    async def test_lines_come_in_pages(self, store: Store) -> None:
        id = await self.write(await self.join(store), 23)
        got: list[str] = []
        page = LogPage((), "")
        cursor: str | None = None
        while True:
            page = await store.logs(id, cursor=cursor, limit=4)
            assert len(page.lines) <= 4
            if not page.lines:
                break
            got += [line.message for line in page.lines]
            cursor = page.cursor
        assert got == [str(number) for number in range(23)]

    async def test_a_follower_sees_each_new_line_once(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        cursor = (await store.logs(claim.id)).cursor
        for number in range(5):
            await peer.report(claim, logs=(self.make.line(f"{number}a"), self.make.line(f"{number}b")))
            page = await store.logs(claim.id, cursor=cursor)
            assert [line.message for line in page.lines] == [f"{number}a", f"{number}b"]
            cursor = page.cursor
            assert (await store.logs(claim.id, cursor=cursor)).lines == ()
        await peer.end(claim, logs=(self.make.line("last"),))
        page = await store.logs(claim.id, cursor=cursor)
        assert [line.message for line in page.lines] == ["last"]

    async def test_the_oldest_lines_are_dropped_at_the_cap(self, store: Store) -> None:
        limited = await self.open(StoreLimits(max_log_lines=10))
        id = await self.write(await self.join(limited), 25)
        page = await limited.logs(id)
        assert [line.message for line in page.lines] == [str(number) for number in range(15, 25)]
        assert page.dropped == 15

    async def test_one_report_over_the_cap_keeps_its_newest_lines(self, store: Store) -> None:
        limited = await self.open(StoreLimits(max_log_lines=10))
        await limited.enqueue(self.make.instances(1))
        peer = await self.join(limited)
        claim = await peer.take_one()
        lines = tuple(self.make.line(str(number)) for number in range(40))
        await peer.end(claim, logs=lines)
        page = await limited.logs(claim.id)
        assert (page.lines, page.dropped) == (lines[30:], 30)

    async def test_a_follower_outlives_dropped_lines(self, store: Store) -> None:
        limited = await self.open(StoreLimits(max_log_lines=10))
        await limited.enqueue(self.make.instances(1))
        peer = await self.join(limited)
        claim = await peer.take_one()
        await peer.report(claim, logs=tuple(self.make.line(f"a{number}") for number in range(5)))
        cursor = (await limited.logs(claim.id)).cursor
        await peer.report(claim, logs=tuple(self.make.line(f"b{number}") for number in range(8)))
        page = await limited.logs(claim.id, cursor=cursor)
        assert [line.message for line in page.lines] == [f"b{number}" for number in range(8)]
        for batch, size in (("c", 10), ("d", 7)):
            lines = tuple(self.make.line(f"{batch}{number}") for number in range(size))
            await peer.report(claim, logs=lines)
        page = await limited.logs(claim.id, cursor=page.cursor)
        assert [line.message for line in page.lines] == [
            *(f"c{number}" for number in range(7, 10)),
            *(f"d{number}" for number in range(7)),
        ]
        assert (await limited.logs(claim.id, cursor=page.cursor)).lines == ()

    async def test_bytes_are_bounded_too(self, store: Store) -> None:
        limited = await self.open(StoreLimits(max_log_bytes=10_000))
        await limited.enqueue(self.make.instances(1))
        peer = await self.join(limited)
        claim = await peer.take_one()
        for number in range(30):
            await peer.report(claim, logs=(self.make.line(f"{number:03}" + "x" * 997),))
        page = await limited.logs(claim.id)
        kept = [line.message for line in page.lines]
        assert 5 <= len(kept) <= 10
        assert [int(message[:3]) for message in kept] == [*range(30 - len(kept), 30)]
        assert page.dropped == 30 - len(kept)

    async def test_cleared_lines_leave_their_room_to_later_ones(self, store: Store) -> None:
        limited = await self.open(StoreLimits(max_log_bytes=20_000))
        await limited.enqueue(self.make.instances(1))
        peer = await self.join(limited)
        claim = await peer.take_one()
        lines = tuple(self.make.line(f"{number}" + "x" * 999) for number in range(15))
        await peer.end(claim, logs=lines)
        await limited.clear_logs(Filter())
        for line in lines:
            await peer.report(claim, logs=(line,))
        page = await limited.logs(claim.id)
        assert (page.lines, page.dropped) == (lines, 0)

    async def test_the_node_that_ended_an_instance_may_still_log(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer, other = await self.join(store), await self.join(store)
        claim = await peer.take_one()
        assert await peer.end(claim, Action.COMPLETE, result=b"result") is Ack.DONE
        before = await self.read(store, claim.id)

        assert await peer.report(claim, logs=(self.make.line("after"),)) is Ack.DONE
        assert await other.report(claim, logs=(self.make.line("stranger"),)) is Ack.LOST
        lines = (self.make.line("more"),)
        assert await peer.report(claim, logs=lines, progress=b"more") is Ack.LOST
        assert await peer.report(claim, logs=lines, result=b"more") is Ack.LOST
        assert await peer.report(claim, logs=lines, error=b"more") is Ack.LOST
        assert await peer.end(claim, Action.TERMINATE, logs=(self.make.line("again"),)) is Ack.LOST

        assert [line.message for line in (await store.logs(claim.id)).lines] == ["after"]
        assert await self.read(store, claim.id) == before

    async def test_a_node_that_gave_an_instance_back_may_not_log(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        assert await peer.end(claim, Action.RETRY) is Ack.DONE

        assert await peer.report(claim, logs=(self.make.line("late"),)) is Ack.LOST
        assert (await store.logs(claim.id)).lines == ()
