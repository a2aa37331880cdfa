"""gRPC's compression of messages, which neither servers nor clients use.

A compressed message of some hundred KiB can unpack to hundreds of MiB. Only some releases of gRPC limit the size while
they unpack, and none of them refuses the message before its first bytes are unpacked.
"""

from __future__ import annotations

UNCOMPRESSED = ("grpc.compression_enabled_algorithms_bitset", 1)
"""The option by which a channel or a server refuses each compressed message: UNIMPLEMENTED, nothing is unpacked."""
