"""Imported before gRPC is, which would write to standard error what the commands tell in words of their own."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
