"""The manager's verbs for a process that is no node: they go over gRPC to one.

A client checks what it can by itself (the arguments of a job that it knows, options, queries) with the code of a node,
so that mistakes are told where they are made, and everything else is checked by the node that answers.

With several addresses it keeps to one node and goes on to the next when that one goes away. What can be asked again
without harm is then asked again; scheduling can, because the client makes the instance's id. What cannot (retry,
trigger, cancel, remove, clear) raises NodeUnavailableError if the node vanished after it may have got the request:
whether it was done is for the caller to look up. A request that surely reached nobody is always sent on. A node that
hangs is left by what can be asked again, and is not given what cannot: see `peer`.
"""

import peerjob.remote.wire as _loads_grpc_first  # noqa: F401  # pyright: ignore[reportUnusedImport]
