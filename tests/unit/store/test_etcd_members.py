"""An etcd of several members, of which one does not answer."""

import asyncio
import socket
from contextlib import ExitStack

import pytest

from peerjob.model.clock import SystemClock
from peerjob.store.etcd.address import parse_address
from peerjob.store.etcd.api import etcd
from peerjob.store.etcd.client import EtcdClient


async def test_a_member_that_did_not_answer_a_call_that_was_given_up_is_left() -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        hosts = ",".join(f"127.0.0.1:{one.getsockname()[1]}" for one in silent)
        client = EtcdClient(parse_address(f"etcd://{hosts}"), SystemClock())
        await client.open()
        try:
            before = client.endpoint
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.call("keepalive", etcd.LeaseKeepAliveRequest(ID=1))
            assert client.endpoint is not before
        finally:
            await client.close()
