"""The verb that gives an instance a value from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar, overload
from uuid import UUID

from peerjob.model.arguments import typed
from peerjob.model.durable import SignalAnswer
from peerjob.model.durable_errors import NotRunningError, StepLimitError
from peerjob.model.errors import UnknownInstanceError
from peerjob.model.ids import checked_id
from peerjob.model.signal import Signal

from .instance import InstanceView

T = TypeVar("T")


class Signalling(ABC):
    """The part of a `Manager` for signals."""

    @overload
    async def signal(self, instance: InstanceView | str | UUID, signal: Signal[T], value: T) -> bool: ...
    @overload
    async def signal(self, instance: InstanceView | str | UUID, signal: str, value: Any) -> bool: ...
    @typed
    async def signal(self, instance: InstanceView | str | UUID, signal: Signal[Any] | str, value: Any) -> bool:
        """Give an instance the value of a signal, and wake it if it waits for that.

        True: the value is stored, by this call or by an earlier one with the same value. False: the signal has another
        value, or the wait for it has timed out. A signal can come before the body waits for it. The name of a signal in
        place of the signal takes any value; if it does not fit the body, the body waits for another one. Raises
        OptionError or EncodeError for a value that does not fit the type, UnknownInstanceError, NotRunningError if the
        instance is final, and StepLimitError if it has too many signals.
        """
        id = checked_id(instance.id if isinstance(instance, InstanceView) else instance, "instance")
        given = Signal[Any](signal, Any) if isinstance(signal, str) else signal
        answer = await self._signal(id, given, value)
        match answer:
            case SignalAnswer.UNKNOWN:
                raise UnknownInstanceError(id)
            case SignalAnswer.FINAL:
                raise NotRunningError(f"instance {id} is final; it takes no signal {given.name!r}")
            case SignalAnswer.FULL:
                raise StepLimitError(id, given.name, "the instance has no room for another signal")
            case _:
                return answer is not SignalAnswer.OTHER

    @abstractmethod
    async def _signal(self, id: str, signal: Signal[Any], value: Any) -> SignalAnswer: ...
