"""Servers that a test may break."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from support.lua_site import MakeSite, Site
from support.servers import StartServer


@pytest.fixture(params=["redis", "valkey"])
async def site(request: pytest.FixtureRequest, start_server: StartServer) -> AsyncIterator[MakeSite]:
    """Start a server of each kind in turn, with settings."""
    async with AsyncExitStack() as cleanup:

        def start(*, appendonly: bool = False, maxmemory: str = "0", policy: str = "noeviction") -> Site:
            server = start_server(request.param, appendonly=appendonly, maxmemory=maxmemory, policy=policy)
            return Site(server, cleanup)

        yield start
