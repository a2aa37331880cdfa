"""One damaged key on a Redis or Valkey server hides no other data, for any damage."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from peerjob.model.query import Query
from peerjob.model.record import LogLine, Want
from peerjob.model.spec import Spec, encode, encode_arguments
from peerjob.model.state import State
from peerjob.testing.factories import outcome
from support.lua_site import MakeSite
from support.servers import Server

SPEC = encode(Spec(args=encode_arguments(("text",), {}), overrides={"max_retries": 2}, created_us=1))


def raw(server: Server, key: str) -> bytes:
    """A text key, byte by byte: the client of the tests decodes answers."""
    text = server.command(
        "EVAL",
        "return (redis.call('GET', KEYS[1]):gsub('.', function(c) return string.format('%02x', c:byte()) end))",
        1,
        key,
    )
    return bytes.fromhex(str(text))


def write(server: Server, key: str, value: bytes) -> None:
    script = "redis.call('SET', KEYS[1], (ARGV[1]:gsub('..', function(h) return string.char(tonumber(h, 16)) end)))"
    server.command("EVAL", script, 1, key, value.hex())


def far_future(value: bytes) -> bytes:
    """Each time as late as a float can be; a time of these years begins with 0x43."""
    return value.replace(b"C\x19", b"\x7f\xe0")


def no_utf8(value: bytes) -> bytes:
    return (
        value.replace(b"node", b"n\xff\xfee")
        .replace(b"max_retries", b"max_retri\xff\xff")
        .replace(b"work", b"w\xff\xffk")
    )


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "foreign": lambda value: b"something foreign",
    "cut": lambda value: value[: len(value) // 2],
    "no UTF-8": no_utf8,
    "far future": far_future,
    "empty": lambda value: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("table", ["i:", "a:"])
async def test_a_damaged_record_hides_no_other(site: MakeSite, table: str, damage: str) -> None:
    here = site()
    store = await here.open()
    peer, make = await here.join(store), here.make
    final, queued = make.instances(3, kind="end", spec=SPEC), make.instances(3, kind="work", spec=SPEC)
    await store.enqueue([*final, *queued])
    claims = (await store.claim(peer.incarnation, Want(kinds={"end": 9}, limit=9), request=make.request())).claims
    line = LogLine(at_us=1, level=1, message="a line")
    await peer.commit(*(outcome(one, result=b"\x01", logs=(line,)) for one in claims))
    for one in (final[1], queued[1]):
        key = here.key(f"{table}{one.id}")
        write(here.server, key, DAMAGES[damage](raw(here.server, key)))

    others = {one.id for one in (*final, *queued)} - {final[1].id, queued[1].id}
    for _ in range(2):
        for query in (Query(limit=100), Query(limit=100, order="desc"), Query(state=State.FINAL | State.SCHEDULED)):
            found = {one.id for one in (await store.lookup(query)).records}
            assert others <= found
    assert all(record for record in await store.get(sorted(others)))
    claimed = (await store.claim(peer.incarnation, Want(kinds={"work": 9}, limit=9), request=make.request())).claims
    assert {one.id for one in claimed} >= {queued[0].id, queued[2].id}
    again = await store.claim(peer.incarnation, Want(kinds={"work": 9}, limit=9), request=make.request())
    assert again.claims == ()
    health = await store.health()
    assert health.undecodable in (0, 2)
