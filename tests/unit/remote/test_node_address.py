"""One address of a client: which answers show that its node does not hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest

from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.client.node_address import NodeAddress
from peerjob.remote.wire.rpcs import GET_VERSION, RPCS, SERVICE

CODE = grpc.StatusCode
ASKED = next(rpc for rpc in RPCS.values() if rpc is not GET_VERSION)


class Answers:
    """A server that ends each call with one code, and counts the calls for its version."""

    def __init__(self) -> None:
        self.code = CODE.OK
        self.versions = 0

    @asynccontextmanager
    async def address(self) -> AsyncGenerator[NodeAddress]:
        async def version(request: bytes, context: Any) -> bytes:
            self.versions += 1
            return pb.VersionResponse().SerializeToString()

        async def other(request: bytes, context: Any) -> bytes:
            if self.code is not CODE.OK:
                await context.abort(self.code, "no")
            return b""

        server = grpc.aio.server()
        answers = {GET_VERSION.name: version, ASKED.name: other}
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(cast(Any, answer)) for name, answer in answers.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            async with grpc.aio.insecure_channel(target) as channel:
                yield NodeAddress(target, channel, ())
        finally:
            await server.stop(None)


@pytest.mark.parametrize(
    ("code", "is_answer"),
    [
        (CODE.OK, True),
        (CODE.NOT_FOUND, True),
        (CODE.INTERNAL, True),
        (CODE.UNAVAILABLE, False),
        (CODE.CANCELLED, False),
        (CODE.DEADLINE_EXCEEDED, False),
    ],
)
async def test_a_node_that_has_just_answered_is_asked_for_no_version(code: grpc.StatusCode, is_answer: bool) -> None:
    node = Answers()
    async with node.address() as address:
        address.avoid()
        assert address.avoided
        node.code = code
        if code is CODE.OK:
            assert await address.ask(ASKED, b"", timeout=60) == b""
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await address.ask(ASKED, b"", timeout=60)
            assert caught.value.code() is code
        assert address.avoided is not is_answer
        assert await address.is_there(600)
        assert node.versions == (not is_answer)


async def test_checks_at_the_same_time_share_one_call() -> None:
    node = Answers()
    async with node.address() as address:
        assert all(await asyncio.gather(*(address.is_there(600) for _ in range(5))))
        assert node.versions == 1
