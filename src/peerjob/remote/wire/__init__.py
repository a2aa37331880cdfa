"""The messages of the gRPC service, from and to the values of the model. The server and the client share this package.

Read `rpcs` (the table of all RPCs) first. `requests`, `queries`, `instances`, `schedules` and `cluster` convert
messages; `values` has their parts. `errors` turns exceptions into statuses and back, and `tls` reads certificates.

The client turns messages into the same values that a node has (records, rows, errors). So handles and exceptions are
the same on both sides. Invalid requests raise OptionError or ScheduleError, which are INVALID_ARGUMENT on the wire.
"""

from peerjob.model.grpc_import import import_grpc

import_grpc()
