"""The stored definition of a schedule: its job, its times, and its policies."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from .firing import Overlap
from .record import MAX_CRASHES
from .spec import reader

DEFAULT_MISFIRE_LIMIT = 100
"""Default number of missed nominal times that `misfire="run_all"` runs."""
DEFAULT_QUEUE_LIMIT = 1
"""Default number of instances that `overlap="queue"` parks."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a leader needs to fire a schedule."""

    kind: str
    spec: bytes
    """Arguments and options of each instance, as an encoded `spec.Spec`."""
    cron: str | None = None
    every_us: int | None = None
    anchor_us: int = 0
    """Start of the interval, only with `every_us`. The nominal times are `anchor_us + k * every_us`, for k ≥ 1."""
    timezone: str = "UTC"
    jitter_us: int = 0
    hashed: bool = False
    """Whether a hash of the schedule's name gives a fixed jitter. If False, each fire draws a random jitter."""
    overlap: Overlap = Overlap.SKIP
    queue_limit: int = DEFAULT_QUEUE_LIMIT
    misfire: Literal["skip", "run_once", "run_all"] = "run_once"
    misfire_limit: int = DEFAULT_MISFIRE_LIMIT
    start_deadline_us: int | None = None
    """Longest delay of a fire after its nominal time; a later fire counts as missed. None: no limit."""
    priority: int = 5
    key: str | None = None
    limit_key: str = ""
    """The key of the kind's key limit; "": it has none."""
    key_concurrency: int = 0
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    max_crashes: int = MAX_CRASHES
    version: int = 0
    """`Job(version=)` of the job that wrote this definition. A lower version does not overwrite a higher one."""
    written: str = ""
    """Digest of the last definition that came from code (see `digest`). A change at run time keeps this digest."""
    description: str = ""


_encoder = msgspec.msgpack.Encoder()
_TEXTS = {field.name: field.default for field in msgspec.structs.fields(Definition) if isinstance(field.default, str)}
"""msgspec omits a default text only if it is the same object, which a text of a message is not."""
decode_definition = reader(Definition, "stored schedule")


def encode_definition(definition: Definition) -> bytes:
    """Encode a definition for storage. Equal definitions have equal bytes."""
    equal = {name: default for name, default in _TEXTS.items() if getattr(definition, name) == default}
    return _encoder.encode(msgspec.structs.replace(definition, **equal))


def digest(definition: Definition) -> str:
    """A hash of the definition without `written` and `anchor_us`."""
    bare = msgspec.structs.replace(definition, written="", anchor_us=0)
    return hashlib.sha256(encode_definition(bare)).hexdigest()[:32]
