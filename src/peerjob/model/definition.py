"""The stored definition of a schedule: what it runs, when, and how it treats what was missed."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from .decoding import reader
from .firing import Overlap
from .record import MAX_CRASHES

MISFIRE_LIMIT = 100
"""Default for how many missed times `misfire="run_all"` makes up for."""
QUEUE_LIMIT = 1
"""Default for how many instances `overlap="queue"` parks."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a leader must know to fire a schedule, whoever wrote it."""

    kind: str
    spec: bytes
    """Arguments and options of each instance, as in `spec.Spec`."""
    cron: str | None = None
    every_us: int | None = None
    anchor_us: int = 0
    """With `every_us`: the nominal times are this one and every multiple after it."""
    timezone: str = "UTC"
    jitter_us: int = 0
    hashed: bool = False
    """Whether the jitter is fixed per schedule (by a hash of its name) rather than drawn anew for each fire."""
    overlap: Overlap = Overlap.SKIP
    queue_limit: int = QUEUE_LIMIT
    misfire: Literal["skip", "run_once", "run_all"] = "run_once"
    misfire_limit: int = MISFIRE_LIMIT
    start_deadline_us: int | None = None
    """How late a fire may be; later ones are missed. None: any lateness."""
    priority: int = 5
    key: str | None = None
    tags: tuple[str, ...] = ()
    retention_us: int | None = None
    max_crashes: int = MAX_CRASHES
    version: int = 0
    """`Job(version=)` of the definition in code that wrote it; a lower one never overwrites a higher one."""
    written: str = ""
    """Digest of what code last wrote (see `digest`); kept when somebody changes the schedule at run time."""
    description: str = ""


_encoder = msgspec.msgpack.Encoder()
decode_definition = reader(Definition, "stored schedule")


def encode_definition(definition: Definition) -> bytes:
    """A definition as it is stored."""
    return _encoder.encode(definition)


def digest(definition: Definition) -> str:
    """What tells two definitions apart, except for who wrote them and where an interval is anchored."""
    bare = msgspec.structs.replace(definition, written="", anchor_us=0)
    return hashlib.sha256(_encoder.encode(bare)).hexdigest()[:32]
