"""gRPC: everything that a process sends to another process's node.

Read `wire.rpcs` (the table of all RPCs), `server` (a node's service), `client` (the manager for other processes),
`wire` (the messages that both share), and `scaler` (the external scaler for KEDA).
"""
