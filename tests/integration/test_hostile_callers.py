"""Messages that are small on the way and large in memory: callers without a token, and servers in place of a node."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from peerjob import Client
from peerjob.proto.job.v1 import service_pb2 as pb
from support.jobd import Jobd, target
from support.listening import copied, listening
from support.processes import ChildProcess
from support.waiting import PATIENCE

Code = grpc.StatusCode
MIB = 1 << 20
TOKENS = "reader 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 ada\n"
ZEROS = bytes(32 * MIB)


def highest_memory(child: ChildProcess) -> int:
    """The most bytes that a process has had in memory."""
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


PATHS = [
    ("--listen", "/grpc.health.v1.Health/Check"),
    ("--listen", "/job.v1.JobService/GetVersion"),
    ("--scaler-listen", "/externalscaler.ExternalScaler/IsActive"),
]


async def test_a_compressed_message_is_refused_before_it_is_unpacked(jobd: Jobd) -> None:
    tokens = jobd.folder / "tokens"
    tokens.write_text(TOKENS)
    child = jobd.run("--store", "memory://", "--tokens-file", str(tokens), "--scaler-listen", "127.0.0.1:0")
    addresses = {"--listen": target(child), "--scaler-listen": child.wait_for(r"answers KEDA on (\S+)")[1]}
    options = [("grpc.max_send_message_length", -1)]
    for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        for service, path in PATHS:
            async with grpc.aio.insecure_channel(addresses[service], options, algorithm) as channel:
                await channel.channel_ready()
                before = highest_memory(child)
                method: Any = channel.unary_unary(path)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await method(ZEROS, timeout=PATIENCE)
            assert refused.value.code() is Code.UNIMPLEMENTED
            assert highest_memory(child) - before < 8 * MIB, (path, algorithm)


async def test_a_client_asks_for_answers_without_compression() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        return pb.VersionResponse(version="1" * MIB, api_version="v1").SerializeToString()

    server = grpc.aio.server()
    made: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("job.v1.JobService", {"GetVersion": made}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    received = 0

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        back, there = await asyncio.open_connection("127.0.0.1", port)
        requests = asyncio.create_task(copied(reader, there))
        while data := await back.read(1 << 16):
            received += len(data)
            writer.write(data)
        await requests

    async with listening(forward) as way:
        async with Client(f"127.0.0.1:{way}", connect_timeout=PATIENCE) as client:
            assert client is not None
        await server.stop(0)
    assert received > MIB
