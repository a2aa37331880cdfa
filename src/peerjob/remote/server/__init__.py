"""A node's gRPC service: the verbs of its manager for clients.

Read in this order:

* `server` (the public class) and `grpc_server` (its base: start, stop, TLS),
* `interceptor`, with `rate_limiter` and `roles`: which calls are accepted,
* `rpc_service`: from handlers to gRPC methods, and from errors to statuses,
* the handlers: `verb_handlers` from the table of RPCs (`wire.rpcs`), and `instances`, `streams`, `schedules` and
  `cluster`, one method for each other RPC.

A handler only translates. `wire` and the node check a request as they check a call in process.
"""

import peerjob.remote.wire as _loads_grpc_first  # noqa: F401  # pyright: ignore[reportUnusedImport]
