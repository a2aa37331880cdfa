"""An external scaler for KEDA: how many nodes the work of a namespace needs, over gRPC.

`server.ScalerServer` listens and stops, `handlers` answers KEDA's RPCs, `metadata` reads what stands at a trigger, and
`demand` counts.
"""

import peerjob.remote.wire as _loads_grpc_first  # noqa: F401  # pyright: ignore[reportUnusedImport]
