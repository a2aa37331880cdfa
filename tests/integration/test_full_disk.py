"""A Redis or Valkey server whose disk was full damages its append-only file, unless it rewrites the file in time."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreUnavailableError
from peerjob.store.drivers import diagnose
from support.lab.disks import WHY_NOT, SmallDisk, small_disk
from support.lua_site import Site
from support.servers import ServerKind, StartServer

ADVICE = "Errors writing to the AOF file: .*; when its disk has room again, run BGREWRITEAOF"


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with small_disk("64m") as found:
        if found is None:
            pytest.skip(WHY_NOT)
        yield found


@pytest.fixture
async def cleanup() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.parametrize("kind", ["redis", "valkey", "valkey+glide"])
async def test_a_rewrite_after_a_full_disk_keeps_all(
    kind: ServerKind, disk: SmallDisk, start_server: StartServer, cleanup: AsyncExitStack
) -> None:
    config = ("--appendfsync", "everysec", "--dir", str(disk.folder))
    here = Site(start_server(kind, appendonly=True, config=config), cleanup)
    store, make = await here.open(), here.make
    hasty = await here.open(retry_for=0)
    # only a file that was begun by a rewrite is damaged
    here.server.rewrite()
    stored = make.instances(50)
    await store.enqueue(stored)
    with disk.full():
        # the server answers, and then finds that its disk takes only a part of this
        stored += (large := make.instances(1, spec=b"x" * 100_000))
        await store.enqueue(large)
        with pytest.raises(StoreUnavailableError, match=ADVICE):
            await hasty.enqueue(make.instances(1))
        with pytest.raises(StoreUnavailableError, match=ADVICE):
            await diagnose(here.server.url, namespace=here.namespace, clock=SystemClock())
    stored += (after := make.instances(50))
    await store.enqueue(after)
    here.server.rewrite()
    here.server.restart()
    assert None not in await store.get([one.id for one in stored])
