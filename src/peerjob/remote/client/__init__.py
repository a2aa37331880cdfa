"""The manager for a process that is not a node: each verb is a call over gRPC.

Read `client` (the public class), then `remote_manager` (the verbs), `connection` (which node is asked, and again), and
`node_address` (one address, and whether its node hangs). `tls_mismatch` explains failed connections, and
`registered_job` is a job as a node lists it.

The client checks options, queries and the arguments of jobs that it knows, with the code of a node. So an invalid call
fails in the caller's process. The node that answers checks everything else.

With several addresses, the client uses one node until it goes away or hangs, and then the next one. The table of RPCs
says which requests it sends again (`Resend`). Scheduling is among them, because the client makes the instance's id. A
retry, trigger, cancel, remove or clear raises NodeUnavailableError if the node may have received it: the caller must
look up whether it took effect. A request that certainly reached no node is always sent to the next one.
"""

import peerjob.remote.wire as _loads_grpc_first  # noqa: F401  # pyright: ignore[reportUnusedImport]
