"""`run_now` on Redis and Valkey: lost answers, unreadable answers, and keys that end."""

from peerjob.model.record import Action
from peerjob.model.run_now import RunNow
from support.lua_site import MakeSite

HOUR_US = 3_600_000_000


async def test_a_call_whose_answer_was_lost_acts_once(site: MakeSite) -> None:
    here = site()
    proxy, url = await here.behind_proxy()
    store, far = await here.open(), await here.open(url=url)
    (new,) = here.make.instances(1, delay_us=HOUR_US)
    await store.enqueue([new])
    peer = await here.join(store)
    proxy.cuts = 1
    assert await far.run_now([new.id], request="r") == [RunNow.DUE_NOW]
    await peer.end(await peer.take_one(), Action.SNOOZE, delay_us=HOUR_US)
    for again in (store, far):
        assert await again.run_now([new.id], request="r") == [RunNow.DUE_NOW]
    assert await peer.take() == ()


async def test_an_unreadable_answer_counts_as_none_and_answers_end(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    batch = here.make.instances(4, delay_us=HOUR_US)
    await store.enqueue(batch)
    ids = [new.id for new in batch]
    here.server.command("HSET", here.key("now:r"), ids[0], "x", ids[1], "77", ids[2], "nan")
    assert await store.run_now(ids, request="r") == [RunNow.DUE_NOW] * 4
    assert await store.run_now(ids[::-1], request="r") == [RunNow.DUE_NOW] * 4
    assert 300_000 < int(str(here.server.command("PTTL", here.key("now:r")))) <= 600_000


async def test_an_unreadable_record_is_set_aside_and_the_others_move(site: MakeSite) -> None:
    here = site()
    store = await here.open()
    first, second = here.make.instances(2, delay_us=HOUR_US)
    await store.enqueue([first, second])
    here.server.command("SET", here.key(f"i:{first.id}"), "broken")
    assert await store.run_now([first.id, second.id], request="r") == [None, RunNow.DUE_NOW]
    assert (await store.health()).undecodable == 1
    peer = await here.join(store)
    assert (await peer.take_one()).id == second.id
