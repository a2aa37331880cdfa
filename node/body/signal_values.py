"""Checks and encodes the value of a signal, as the body will get it."""

from __future__ import annotations

from typing import Any

from peerjob.model.codec import encode_value
from peerjob.model.durable import MAX_STEP_BYTES
from peerjob.model.errors import EncodeError, OptionError, PayloadTooLargeError, ResultTypeError
from peerjob.model.printable import with_article
from peerjob.model.secret import MASK
from peerjob.model.signal import Signal

from .typed_positions import ResultType


def encode_signal(signal: Signal[Any], value: Any) -> bytes:
    """The stored form of a value; raises OptionError, or PayloadTooLargeError, for one that the signal cannot have."""
    result = ResultType(signal.type)
    try:
        data = result.encode(value)
        if data is None:
            data = encode_value(None)
            result.decode(data, "", "", optional=False)
    except (EncodeError, ResultTypeError) as error:
        kind = getattr(signal.type, "__name__", str(signal.type))
        given = MASK if result.position.secret else value
        reason = "" if value is None else f": {error}"
        raise OptionError("value", given, f"{with_article(kind)} for signal {signal.name!r}{reason}") from error
    if len(data) > MAX_STEP_BYTES:
        raise PayloadTooLargeError(f"value of signal {signal.name!r}", len(data), MAX_STEP_BYTES)
    return data
