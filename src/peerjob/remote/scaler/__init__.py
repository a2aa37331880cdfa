"""An external scaler for KEDA: how many nodes the jobs of a namespace need, over gRPC.

Read `server` (the public class), `handlers` (KEDA's RPCs), `metadata` (the options of a trigger) and `demand` (the
numbers of jobs).
"""

import peerjob.remote.wire as _loads_grpc_first  # noqa: F401  # pyright: ignore[reportUnusedImport]
