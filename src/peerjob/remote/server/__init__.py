"""A node's gRPC service: the verbs of its manager for clients elsewhere.

`listener.Server` is what users start, and `endpoint` listens and stops. `door` looks at calls before they come in,
`rpc` turns handlers into what gRPC calls and errors into statuses, and `instances`, `streams`, `schedules` and
`cluster` hold the handlers: one method for each RPC of the service, by its name. A handler only translates; what it
asks is checked by `wire` and by the node, the same as for a caller in process.
"""

import peerjob.remote.wire as _loads_grpc_first  # noqa: F401  # pyright: ignore[reportUnusedImport]
