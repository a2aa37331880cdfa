"""Views of one instance share a watch of the manager, as long as that watch lives."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from peerjob import NodeStateError
from peerjob.web.feeds import Feeds


class Breaking:
    """A manager whose first watch breaks off."""

    def __init__(self) -> None:
        self.watches = 0

    async def watch_instance(self, id: str) -> AsyncGenerator[Any]:
        self.watches += 1
        if self.watches == 1:
            raise NodeStateError("the node has stopped")
        await asyncio.Event().wait()
        yield id


async def test_a_view_beside_one_whose_watch_broke_off_has_a_watch_of_its_own() -> None:
    manager: Any = Breaking()
    feeds = Feeds(manager)
    async with AsyncExitStack() as views:
        first = await views.enter_async_context(feeds.open("a"))
        await first.news(60)
        assert first.ended
        async with feeds.open("a") as second:
            await asyncio.sleep(0)  # its watch begins
            assert second is not first
            await views.aclose()
            async with feeds.open("a") as third:
                assert third is second
                assert not third.ended
    assert manager.watches == 2
