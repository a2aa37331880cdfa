"""How a run makes a call, and which differences of two answers it leaves out."""

from __future__ import annotations

from typing import Any, cast

from peerjob.model.errors import PeerjobError
from peerjob.model.record import Ack

from .compare import Raised
from .known import Call, Made
from .names import Side


async def answer(call: Call, side: Side) -> Any:
    """What a side answers to a call, or the error that it raises."""
    try:
        return await call(side)
    except (ValueError, PeerjobError) as error:
        return Raised(type(error).__name__, str(error))


async def answer_of(made: Made, side: Side) -> Any:
    """The same, of an operation."""
    return await answer(made.call, side)


def without_ended(ours: list[Ack], theirs: list[Ack]) -> list[Ack]:
    """The answers to a late commit. *Choice*: of a claim that has ended, an engine can still know how it ended."""
    pairs = zip(ours, theirs, strict=True)
    return [our if our is Ack.LOST else their for our, their in pairs]


def state_of(answer: Any) -> Any:
    """The state in an answer that is a record or only the state."""
    return answer["state"] if isinstance(answer, dict) else answer


_ANEW = ("now_us", "next_due_us")


def without_times(answer: Any) -> Any:
    """The answer to a claim that is repeated: if the first one found nothing, the store may look again."""
    if isinstance(answer, list):
        return [without_times(one) for one in answer]
    if isinstance(answer, dict) and "dead" in answer:
        return {name: value for name, value in cast("dict[str, Any]", answer).items() if name not in _ANEW}
    return answer
