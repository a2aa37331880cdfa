"""A process that calls a node over gRPC: says `ready`, and for each line that comes in answers with what it counted.

A line is `RPC seconds in_flight`. `calls` instead of an RPC is what a dashboard and a few clients do: jobs are
scheduled, waited for and looked up. `mixed` is that, and streams that are opened and cut off while they tell of them.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from google.protobuf.message import Message

from peerjob.proto.job.v1 import service_pb2 as pb
from support.rpc import RawClient, raw_client

OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
"""A channel option. Without this option, all channels of a process to one address share a connection."""


def noop() -> pb.ScheduleJobRequest:
    return pb.ScheduleJobRequest(kind="noop", json_arguments="[1]")


async def mixed(client: RawClient) -> None:
    watching: Any = client.stream("Watch", pb.WatchRequest(query=pb.Query(kind="noop")))
    await calls(client)
    watching.cancel()


async def calls(client: RawClient) -> None:
    made = (await client.call("ScheduleJob", noop())).instance.uuid
    await client.call("WaitInstance", pb.WaitInstanceRequest(uuid=made))
    await client.call("GetInstance", pb.GetInstanceRequest(uuid=made))
    await client.call("LookupInstances", pb.LookupInstancesRequest(query=pb.Query(kind="noop", limit=20)))
    await client.code("GetInstance", pb.GetInstanceRequest(uuid="01900000-0000-7000-8000-000000000000"))


MIXES = {"mixed": mixed, "calls": calls}


async def one_call(client: RawClient, name: str) -> Callable[[], Awaitable[object]]:
    """A function that makes one call of this RPC; the request is built before, so that only the call is measured."""
    request: Message = pb.VersionRequest()
    if name == "ScheduleJob":
        request = noop()
    elif name == "GetInstance":
        request = pb.GetInstanceRequest(uuid=(await client.call("ScheduleJob", noop())).instance.uuid)
    data = request.SerializeToString()
    return lambda: client.send(name, data)


async def count(target: str, name: str, seconds: float, in_flight: int) -> int:
    counted = 0
    async with raw_client(target, [OWN_CONNECTION]) as client:
        mix = MIXES.get(name)
        call = await one_call(client, name) if mix is None else lambda: mix(client)

        async def go_on(until: float) -> None:
            nonlocal counted
            while time.monotonic() < until:
                await call()
                counted += 1

        until = time.monotonic() + seconds
        await asyncio.gather(*(go_on(until) for _ in range(in_flight)))
    return counted


async def main(target: str) -> None:
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, seconds, in_flight = line.split()
        print(f"counted {await count(target, name, float(seconds), int(in_flight))}", flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
