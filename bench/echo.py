"""A gRPC server on one event loop that does nothing, to hold a node against: what grpc.aio itself costs a call.

Prints `serves on host:port`. It has the loop and the options of a node, and answers every call with the same bytes.
"""

from typing import Any, cast

import grpc
import uvloop

from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.server.grpc_server import server_options
from peerjob.remote.wire.rpcs import SERVICE

ANSWER = pb.VersionResponse(version="0.0.0", api_version="v1").SerializeToString()


async def answer(request: bytes, context: Any) -> bytes:
    return ANSWER


async def main() -> None:
    server = grpc.aio.server(options=server_options(1 << 20))
    handler = cast(Any, grpc.unary_unary_rpc_method_handler(cast(Any, answer)))
    handlers = {method.name: handler for method in SERVICE.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"serves on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
