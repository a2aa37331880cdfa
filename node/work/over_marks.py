"""The step that is kept with a wait for cancelled children.

The record of a cancelled child does not tell whether its body still runs. A claim after a wait for the child does, if
nothing else ended that wait: the step names what else the wait was for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

from peerjob.model.codec import decode_value, encode_value
from peerjob.model.durable import SIGNAL_MARK, Step, Wait
from peerjob.model.errors import DecodeError


def mark_name(ids: Sequence[str], number: int) -> str:
    """The name of the mark of these children; the mark of another wait for them has another number."""
    name = f"over/{hashlib.sha256(' '.join(sorted(ids)).encode()).hexdigest()}"
    return name if number == 1 else f"{name}/{number}"


def marked(step: Step, wait: Wait) -> Step:
    """The mark with what else the wait was for."""
    return Step(step.name, encode_value([list(wait.signals), wait.until_us]))


def shows_over(data: bytes, steps: Collection[str], now_us: int) -> bool:
    """Whether only the end of the children can have ended the wait. `steps` has the stored names of all steps."""
    try:
        value: Any = decode_value(data)
    except DecodeError:
        return False
    match value:
        case [[*signals], None | int() as until_us]:
            had_signal = any(f"{SIGNAL_MARK}{name}" in steps for name in signals)
            return not had_signal and (until_us is None or until_us > now_us)
        case _:
            return False
