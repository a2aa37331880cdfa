"""Log lines of a running job: from `instance.log`, and from `logging` calls inside the job."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from typing import ClassVar

from peerjob.model.injected import current_run
from peerjob.model.record import LogLine
from peerjob.model.state import Level

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
MAX_MESSAGE = 16_384
"""Longest log message that is stored, in characters. Longer messages are cut and marked."""


def level_of(number: int) -> Level:
    """Convert a `logging` number to a level."""
    if number >= logging.ERROR:
        return Level.ERROR
    if number >= logging.WARNING:
        return Level.WARN
    return Level.INFO if number >= logging.INFO else Level.DEBUG


class CaptureHandler(logging.Handler):
    """Passes each record from inside a run to that run, from `start` to `stop`.

    `backend` is that of the node's runs: each node of a process has a handler of its own.

    The handler is on no logger. On the root logger, it would hide all warnings of a program that configures no
    logging, and turn a later `logging.basicConfig()` into a call without effect.
    """

    _started: ClassVar[tuple[CaptureHandler, ...]] = ()
    _wrapper: ClassVar[Callable[[logging.Logger, logging.LogRecord], None] | None] = None
    _changing: ClassVar = threading.Lock()

    def __init__(self, backend: object) -> None:
        super().__init__()
        self._backend = backend

    def start(self) -> None:
        """Capture from now on. Wraps `logging.Logger.callHandlers`, unless the wrapper is there already.

        Other code can have removed the wrapper: a test that patches the method restores what it found before.
        """
        with CaptureHandler._changing:
            CaptureHandler._started += (self,)
            if logging.Logger.callHandlers is not CaptureHandler._wrapper:
                CaptureHandler._wrapper = _wrap_call_handlers()

    def stop(self) -> None:
        with CaptureHandler._changing:
            CaptureHandler._started = tuple(handler for handler in CaptureHandler._started if handler is not self)

    @classmethod
    def handle_all(cls, record: logging.LogRecord) -> None:
        """Pass a record to the handlers that have started.

        Without the lock of the handlers: the text of a value can take long, or wait for a thread that logs.
        """
        if current_run.get() is not None:
            for handler in cls._started:
                handler.emit(record)

    def emit(self, record: logging.LogRecord) -> None:
        context = current_run.get()
        if context is None or not context.serves(self._backend):
            return
        try:
            context.log_line(record.levelno, _message(record), _fields(record))
        except Exception:  # noqa: BLE001  # a logging handler must not raise into the code that logs
            self.handleError(record)


class _Passing(threading.local):
    """The record that the outermost wrapper of this thread passes on. It alone captures the record."""

    record: logging.LogRecord | None = None


_passing = _Passing()


def _wrap_call_handlers() -> Callable[[logging.Logger, logging.LogRecord], None]:
    call_handlers = logging.Logger.callHandlers

    @functools.wraps(call_handlers)
    def call_and_capture(self: logging.Logger, record: logging.LogRecord) -> None:
        outer = _passing.record
        if outer is record or current_run.get() is None:
            call_handlers(self, record)
            return
        _passing.record = record
        try:
            call_handlers(self, record)
        finally:
            _passing.record = outer
            CaptureHandler.handle_all(record)

    logging.Logger.callHandlers = call_and_capture  # type: ignore[method-assign]
    return call_and_capture


Keep = Callable[[str, int, str, Mapping[str, object] | None], None]
"""A function that stores a log line from outside the instance's run: id, level number, message, fields."""


class _InstanceLogger(logging.Logger):
    """Stores each line with its instance, and passes it to the `peerjob.job` logger if its level is enabled."""

    def __init__(self, instance_id: str, keep: Keep | None) -> None:
        super().__init__("peerjob.job", logging.DEBUG)
        self._instance_id = instance_id
        self._keep = keep
        self._process_log = logging.getLogger("peerjob.job")

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # overrides a method of logging.Logger
        return True

    def handle(self, record: logging.LogRecord) -> None:
        context = current_run.get()
        inside = context is not None and context.id == self._instance_id
        message, fields = _message(record), _fields(record)
        # a processor can log after the end of the body, when the run takes no more lines: `_keep` stores that line
        taken = context is not None and inside and context.log_line(record.levelno, message, fields)
        if not taken and self._keep is not None:
            self._keep(self._instance_id, record.levelno, message, fields)
        if self._process_log.isEnabledFor(record.levelno):
            # hide the run from the capture handler, which would store the same line again
            token = current_run.set(None) if inside else None
            try:
                self._process_log.handle(record)
            finally:
                if token is not None:
                    current_run.reset(token)


def instance_logger(instance_id: str, keep: Keep | None = None) -> logging.Logger:
    """Make the logger of one instance; `keep` takes lines from outside its run."""
    return _InstanceLogger(instance_id, keep)


def make_line(
    at_us: int, level: int, message: str, *, attempt: int, node: str, fields: Mapping[str, object] | None = None
) -> LogLine:
    """Make a line that every store can keep, from any message and fields. `level` is a `logging` number."""
    # `logging` takes any key in `extra=`
    kept = None if not fields else {storable(_shown(name)): _field(value) for name, value in fields.items()}
    return LogLine(at_us, int(level_of(level)), storable(message), attempt, node, kept)


def storable(text: str, limit: int = MAX_MESSAGE) -> str:
    """Cut text to `limit` characters with a mark, and escape lone surrogates."""
    if len(text) > limit:
        text = text[:limit] + " … [cut]"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _field(value: object) -> str | int | float | bool | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = str(value) if value.bit_length() < 1000 else f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool):
        return value
    # a store cannot encode subclasses of int and float, such as those of numpy: convert the value to the plain type
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return storable(_shown(value))


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # str() runs the value's own code, which can raise any error
        return f"<{type(value).__name__} that cannot be shown>"


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001  # a wrong format string must not end the job
        text = f"{_shown(record.msg)} [bad arguments for this message: {_shown(error)}]"
    if record.exc_info and record.exc_info[0] is not None:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    return text


def _fields(record: logging.LogRecord) -> dict[str, object] | None:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD} or None
