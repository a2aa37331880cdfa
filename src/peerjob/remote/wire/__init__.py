"""The messages of the gRPC service, to and from the values of the model: shared by server and client.

What a client gets it turns back into the very values that a node has (records, rows, errors), so that handles and
exceptions are the same on both sides. What a request holds is checked here, and refused with OptionError or
ScheduleError, which are INVALID_ARGUMENT on the wire.
"""

from peerjob.model.grpc_import import import_grpc

import_grpc()
