"""Names the extra to install where an optional package is missing.

Every import of a package that the core does not require stands in a block of `needs_extra`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Literal

from .errors import MissingExtraError

Extra = Literal["cli", "django", "etcd", "grpc", "jwt", "metrics", "otel", "sql", "valkey", "web"]


@contextlib.contextmanager
def needs_extra(extra: Extra, feature: str) -> Generator[None]:
    """Raise MissingExtraError if the block imports a package that is not installed.

    `feature` is the subject of the error message, such as a class or a command.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] == "peerjob":
            raise
        raise MissingExtraError(feature, extra, missing) from error
