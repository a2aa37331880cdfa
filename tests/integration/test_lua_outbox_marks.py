"""Marks of removed instances on Redis and Valkey: a day for those of an outbox, and two minutes for others."""

from msgspec import structs

from peerjob.model.clock import SystemClock
from peerjob.model.ids import OutboxIdSource
from peerjob.model.query import Filter
from peerjob.model.record import Enqueued
from peerjob.model.repeats import OUTBOX_REPEAT_US, REPEAT_US
from support.lua_site import MakeSite, Site


def left_ms(here: Site, rest: str) -> int:
    return int(str(here.server.command("PTTL", here.key(rest))))


async def test_the_mark_of_an_instance_of_an_outbox_stays_for_a_day(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    peer = await here.join(store)
    ids = OutboxIdSource(SystemClock())
    brief, long, cleared = (
        structs.replace(new, id=ids.one(), retention_us=kept_us)
        for new, kept_us in zip(here.make.instances(3), (0, 3_600_000_000, 7 * 86_400_000_000), strict=True)
    )
    plain, later = here.make.instances(2, retention_us=0)
    await store.enqueue([plain])
    for claim in await peer.take():
        await peer.end(claim)
    assert 0 < left_ms(here, "gone") <= REPEAT_US // 1000
    await store.enqueue([brief, long, cleared])
    for claim in await peer.take():
        await peer.end(claim)
    longest, least = OUTBOX_REPEAT_US // 1000, OUTBOX_REPEAT_US // 1000 - 60_000
    for new in (brief, long):
        assert least < left_ms(here, f"gone:{new.id}") <= longest
    assert left_ms(here, f"gone:{cleared.id}") == -2
    while await store.clear_instances(Filter()):
        pass
    assert least < left_ms(here, f"gone:{cleared.id}") <= longest
    # a later mark of two minutes must not end the sign that there are marks
    await store.enqueue([later])
    for claim in await peer.take():
        await peer.end(claim)
    assert 0 < left_ms(here, f"gone:{later.id}") <= REPEAT_US // 1000
    assert least < left_ms(here, "gone") <= longest
    again = [brief, long, cleared, plain, later]
    assert await store.enqueue(again) == [Enqueued(new.id, True, repeated=True) for new in again]
