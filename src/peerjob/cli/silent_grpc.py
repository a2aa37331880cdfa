"""Silences gRPC's own messages on standard error. Import this module before gRPC."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
